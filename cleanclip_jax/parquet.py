"""Parquet files from anywhere: read in batches; what unpacks to far too much is refused."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MOST_PACKED = 1 << 29  # bytes that a row group may unpack to, or 50 times
MOST_RATIO = 50  # the file
MOST_BATCH = 1 << 29  # bytes of a batch, where a few texts stand for all rows
MOST_TABLE = 1 << 31  # bytes of a table that is read whole


def batches(
    file: pq.ParquetFile, size: int, columns: Sequence[str] | None = None, most: int = 1 << 16
) -> Iterator[pa.RecordBatch]:
    """Yields a file's rows; raises ValueError for what unpacks to more than is sensible.

    A page is unpacked whole, and one value may stand for many rows: so a row group's size is
    looked at before anything of it is read, and the larger it is the fewer rows are a batch.

    Args:
      size: bytes of the file.
      columns: those that are read; None: all.
      most: rows of a batch.
    """
    for group in range(file.num_row_groups):
        # Of the whole group: where a footer is damaged, a look at one column ends the process.
        unpacked = file.metadata.row_group(group).total_byte_size
        if unpacked > max(MOST_PACKED, MOST_RATIO * size):
            raise ValueError(f"it would unpack from {size:,} bytes to {unpacked:,}")
        rows = max(1, min(most, MOST_BATCH // max(1, unpacked)))
        yield from file.iter_batches(
            rows, row_groups=[group], columns=None if columns is None else [*columns]
        )


def read_table(stream: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table, as pyarrow.parquet.read_table; raises ValueError where it takes too much."""
    size = stream.seek(0, 2)
    stream.seek(0)
    with pq.ParquetFile(stream) as file:
        parts, taken = [], 0
        for batch in batches(file, size, columns):
            parts.append(batch)
            taken += batch.nbytes
            if taken > MOST_TABLE:
                raise ValueError(f"it takes more than {MOST_TABLE >> 30} GiB")
        schema = file.schema_arrow
        if columns is not None:
            fields = [schema.field(name) for name in columns]
            schema = pa.schema(fields, schema.metadata)
        return pa.Table.from_batches(parts, schema).combine_chunks()
