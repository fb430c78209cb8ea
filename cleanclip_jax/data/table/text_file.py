"""Records of CSV and TSV files, one by one: a broken one does not take its neighbours along."""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from cleanclip_jax.data.paths import open_binary
from cleanclip_jax.data.table.rows import Rows
from cleanclip_jax.errors import UserError

BATCH_ROWS = 16_384
LONGEST_FIELD = 1 << 20  # characters; an open quote is looked for no further

# What stands for bytes that are no text. A lone surrogate, so that no text has it.
UNREADABLE = "\udcff"
codecs.register_error("cleanclip-unreadable", lambda error: (UNREADABLE, error.end))  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class TextReader:
    """Reads CSV or TSV in batches, everything as text: a caption may look like a number.

    Attributes:
      delimiter: between fields.
      encoding: of the file; a byte order mark is passed over.
    """

    delimiter: str
    encoding: str = "utf-8"
    kind: str = "text"

    def columns(self, file: str) -> list[str]:
        """The header's names; raises UserError where there is none."""
        with self._open(file) as stream:
            return self._header(file, stream)

    def batches(self, file: str, columns: list[str]) -> Iterator[Rows]:
        with self._open(file) as stream:
            header = self._header(file, stream)
            picked = [header.index(name) for name in columns]
            for rows in records(stream, self.delimiter, len(header)):
                yield self._batch(rows, columns, picked)

    def _open(self, file: str) -> io.TextIOWrapper:
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        return io.TextIOWrapper(
            open_binary(file), encoding, errors="cleanclip-unreadable", newline=""
        )

    def _header(self, file: str, stream: io.TextIOWrapper) -> list[str]:
        first = next((row for row in csv.reader(stream, delimiter=self.delimiter) if row), None)
        if first is None:
            raise UserError(f"{file}: the file is empty; it needs a line of column names.")
        if any(UNREADABLE in name for name in first):
            raise UserError(f"{file}: is not {self.encoding}; name what it is in with encoding=...")
        return first

    def _batch(
        self, rows: Sequence[list[str] | str], columns: list[str], picked: list[int]
    ) -> Rows:
        bad = [row if isinstance(row, str) else None for row in rows]
        values: list[list[str | None]] = [
            [None if isinstance(row, str) else row[column] for row in rows] for column in picked
        ]
        try:
            arrays = _arrays(values)
        except UnicodeEncodeError:
            for column in values:
                for i, value in enumerate(column):
                    if value is not None and UNREADABLE in value:
                        column[i], bad[i] = None, f"not {self.encoding}"
            arrays = _arrays(values)
        return Rows(pa.record_batch(arrays, names=columns), pa.array(bad, pa.string()))


def _arrays(columns: list[list[str | None]]) -> list[pa.Array]:
    return [pa.array(column, pa.large_string()) for column in columns]


def records(
    lines: Iterable[str], delimiter: str, width: int
) -> Iterator[Sequence[list[str] | str]]:
    """Yields records in blocks: each's fields, or why it has not `width` of them.

    Blank lines are no records. A quote that nothing closes would swallow the records after it, up
    to the next quote: then its line alone is the broken record, and reading goes on with the line
    after it.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    source = iter(lines)
    while block := list(islice(source, BATCH_ROWS)):
        try:
            rows = list(csv.reader(block, delimiter=delimiter, strict=True))
            sound = set(map(len, rows)) == {width}
        except csv.Error:
            rows, sound = [], False
        # A block at a time is five times as fast as a record at a time.
        yield rows if sound else list(_one_by_one(block, source, delimiter, width))


def _one_by_one(
    block: list[str], source: Iterator[str], delimiter: str, width: int
) -> Iterator[list[str] | str]:
    """A block's records, the last of which may go on in the source's next lines."""
    ahead, taken = deque(block), list[str]()

    def feed() -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(source, None)) is not None:
            taken.append(line)
            yield line

    rows = csv.reader(feed(), delimiter=delimiter, strict=True)
    while ahead:
        taken.clear()
        try:
            fields = next(rows)
        except csv.Error as error:
            fields = _forgiven(taken, delimiter, width, str(error))
            if fields is None:
                yield f"a quote is not closed, or stands within a field ({error})"
            else:
                yield fields
            ahead.extendleft(reversed(taken[1:]))
            rows = csv.reader(feed(), delimiter=delimiter, strict=True)
            continue
        if len(fields) == width:
            yield fields
        elif fields:
            yield f"{len(fields)} field{'s' * (len(fields) > 1)}, where the header has {width}"


def _forgiven(taken: list[str], delimiter: str, width: int, error: str) -> list[str] | None:
    """A line's own fields, if they are all there but for quotes left bare, as pandas reads them."""
    if len(taken) > 1 or error == "unexpected end of data":
        return None
    fields = next(csv.reader(taken, delimiter=delimiter))
    return fields if len(fields) == width else None
