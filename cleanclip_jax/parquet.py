"""Parquet files from anywhere: read in batches; what unpacks to far too much is refused."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MOST_PACKED = 1 << 29  # bytes that a column's part of a row group may unpack to, or 50 times
MOST_RATIO = 50  # what lies in the file
MOST_BATCH = 1 << 29  # bytes of a batch, where a few texts stand for all rows
MOST_TABLE = 1 << 31  # bytes of a table that is read whole


def batches(
    file: pq.ParquetFile, size: int, columns: Sequence[str] | None = None, most: int = 1 << 16
) -> Iterator[pa.RecordBatch]:
    """Yields a file's rows; raises ValueError for what unpacks to more than is sensible.

    A page is unpacked whole, and one value may stand for many rows: so a row group's columns are
    looked at before anything of them is read, and the larger they are the fewer rows are a batch.

    Args:
      size: bytes of the file.
      columns: those that are read; None: all.
      most: rows of a batch.
    """
    for group in range(file.num_row_groups):
        about, largest = file.metadata.row_group(group), 1
        for i in range(about.num_columns):
            column = about.column(i)
            path, unpacked = column.path_in_schema, column.total_uncompressed_size
            if columns is None or any(f"{path}.".startswith(f"{name}.") for name in columns):
                packed = min(column.total_compressed_size, size)
                if unpacked > max(MOST_PACKED, MOST_RATIO * packed):
                    raise ValueError(
                        f"column {path!r} would unpack from {packed:,} bytes to {unpacked:,}"
                    )
                largest = max(largest, unpacked)
        rows = max(1, min(most, MOST_BATCH // largest))
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
