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
                bad: list[str | None] = [None] * batch.num_rows
                arrays = {name: _sound(name, batch.column(name), bad) for name in columns}
                yield batch_of(arrays, bad)


def _sound(name: str, column: pa.Array, bad: list[str | None]) -> pa.Array:
    """A column's values; those that are no text, which a careless writer leaves, are noted."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_text(column.type):
        return column
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        pass
    values: list[str | None] = []
    for i, data in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            values.append(data if data is None else data.decode())
        except UnicodeDecodeError:
            values.append(None)
            bad[i] = f"column {name!r} is not utf-8"
    return pa.array(values, column.type)
