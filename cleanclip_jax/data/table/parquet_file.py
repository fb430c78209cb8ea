"""Parquet files in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet

from cleanclip_jax.data.paths import open_binary
from cleanclip_jax.data.table.columns import batch_of, is_text
from cleanclip_jax.parquet import batches

BATCH_ROWS, BATCH_BYTES = 1024, 1 << 26  # pictures may be in them


@dataclass(frozen=True)
class ParquetReader:
    """Reads parquet; categories come as their values."""

    kind: str = "parquet"

    def columns(self, file: str) -> list[str]:
        with open_binary(file) as stream:
            return pyarrow.parquet.read_schema(stream).names

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with open_binary(file) as stream:
            size = stream.seek(0, 2)
            with pyarrow.parquet.ParquetFile(stream) as parquet:
                for batch in _joined(batches(parquet, size, columns, BATCH_ROWS)):
                    arrays = {name: _sound(batch.column(name)) for name in columns}
                    yield batch_of(arrays, [None] * batch.num_rows)


def _joined(parts: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of few rows together."""
    waiting, rows, size = [], 0, 0
    for part in parts:
        if waiting and (rows + len(part) > BATCH_ROWS or size + part.nbytes > BATCH_BYTES):
            yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
            waiting, rows, size = [], 0, 0
        waiting.append(part)
        rows, size = rows + len(part), size + part.nbytes
    if waiting:
        yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()


def _sound(column: pa.Array) -> pa.Array | list[str | None]:
    """A column's values; texts that are none, as a careless writer leaves them, have surrogates."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        column.validate(full=is_text(column.type))
        return column
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        return [v if v is None else v.decode(errors="surrogateescape") for v in values]
