"""What readers of tables give: rows in batches, with what is wrong with some of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, in its order.

    Attributes:
      columns: those asked for. Images are files' bytes, their paths (text), structs of bytes and
        path (either may be null), or structs of start and length in the file itself.
      bad: text, why a row cannot be taken, null where it can; None: all can.
      names: text, what to call the rows; None: by their number.
    """

    columns: pa.RecordBatch
    bad: pa.Array | None = None
    names: pa.Array | None = None

    def __len__(self) -> int:
        # A batch without columns knows no length.
        return self.columns.num_rows if self.bad is None else len(self.bad)


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

    def batches(self, file: str, columns: list[str]) -> Iterator[Rows]:
        """A file's rows; a row that cannot be read is given as bad, never left out."""
        ...
