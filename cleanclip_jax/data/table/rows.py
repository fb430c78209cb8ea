"""What readers of tables give: rows in batches, with what is wrong with some of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa

# Columns that readers add to those of a file, whose names these cannot be.
BAD, NAME = "\0bad", "\0name"


def batch_of(
    columns: Mapping[str, pa.Array], bad: Sequence[str | None], names: pa.Array | None = None
) -> pa.RecordBatch:
    """Rows as a reader gives them, with why some cannot be read and, if not by number, names."""
    added = {BAD: pa.array(bad, pa.string())} | ({} if names is None else {NAME: names})
    return pa.RecordBatch.from_pydict({**columns, **added})


@runtime_checkable
class Reader(Protocol):
    """Reads files of one kind; a frozen dataclass of all that decides what it gives."""

    @property
    def kind(self) -> str:
        """What its files are, for errors."""
        ...

    def columns(self, file: str) -> list[str] | None:
        """The columns that a file has; None where it has no row to tell."""
        ...

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """A file's rows, as `batch_of` makes them; one that cannot be read is never left out.

        Images are files' bytes, their paths (text), structs of bytes and path (either may be
        null), or structs of start and length in the file itself.
        """
        ...
