"""Parquet files in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet

from cleanclip_jax.data.paths import open_binary, reason
from cleanclip_jax.data.table.rows import Rows
from cleanclip_jax.errors import UserError

BATCH_ROWS = 1024  # pictures may be in them


@dataclass(frozen=True)
class ParquetReader:
    """Reads parquet; categories come as their values."""

    kind: str = "parquet"

    def columns(self, file: str) -> list[str]:
        with open_binary(file) as stream:
            try:
                return pyarrow.parquet.read_schema(stream).names
            except pa.ArrowInvalid as error:
                raise UserError(
                    f"{file}: not a parquet file, or one cut short ({reason(error)})."
                ) from error

    def batches(self, file: str, columns: list[str]) -> Iterator[Rows]:
        with open_binary(file) as stream, pyarrow.parquet.ParquetFile(stream) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                plain = [_plain(batch.column(name)) for name in columns]
                columns_ = pa.record_batch(plain, names=columns)
                try:
                    columns_.validate(full=True)
                    yield Rows(columns_)
                except pa.ArrowInvalid:
                    yield _without_broken_text(columns_)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _without_broken_text(batch: pa.RecordBatch) -> Rows:
    """Parquet's text is bytes that a careless writer may not have checked."""
    bad: list[str | None] = [None] * batch.num_rows
    arrays = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            arrays.append(column)
            continue
        values: list[str | None] = []
        for i, data in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                values.append(data if data is None else data.decode())
            except UnicodeDecodeError:
                values.append(None)
                bad[i] = f"column {name!r} is not utf-8"
        arrays.append(pa.array(values, column.type))
    return Rows(pa.record_batch(arrays, names=batch.schema.names), pa.array(bad, pa.string()))
