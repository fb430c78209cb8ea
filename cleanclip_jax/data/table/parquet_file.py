"""Parquet files in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet

from cleanclip_jax.data.paths import open_binary
from cleanclip_jax.data.table.columns import batch_of, is_text

BATCH_ROWS = 1024  # pictures may be in them


@dataclass(frozen=True)
class ParquetReader:
    """Reads parquet; categories come as their values."""

    kind: str = "parquet"

    def columns(self, file: str) -> list[str]:
        with open_binary(file) as stream:
            return pyarrow.parquet.read_schema(stream).names

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with open_binary(file) as stream, pyarrow.parquet.ParquetFile(stream) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                arrays = {name: _sound(batch.column(name)) for name in columns}
                yield batch_of(arrays, [None] * batch.num_rows)


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
