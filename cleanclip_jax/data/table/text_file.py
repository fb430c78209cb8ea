"""Records of CSV and TSV files, one by one: a broken one does not take its neighbours along.

By Python's csv and not Arrow's, which reads on over an open quote and joins records in silence.
"""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from cleanclip_jax.data.paths import open_binary
from cleanclip_jax.data.table.columns import batch_of
from cleanclip_jax.errors import UserError

BATCH_ROWS = 16_384
BATCH_SIZE = 1 << 24  # characters
LONGEST_FIELD = 1 << 20  # characters; the end of an open quote is looked for no further
LONGEST_LINE = 1 << 22  # characters; what follows them in a line is cut off

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
        with self._open(file) as stream:
            return self._header(file, stream)

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open(file) as stream:
            header = self._header(file, stream)
            places = [header.index(name) for name in columns]
            for rows in records(stream, self.delimiter, len(header)):
                bad = [row if isinstance(row, str) else None for row in rows]
                values = [[None if isinstance(r, str) else r[i] for r in rows] for i in places]
                named = dict(zip(columns, values, strict=True))
                yield batch_of(named, bad, why=f"not {self.encoding}")

    def _open(self, file: str) -> io.TextIOWrapper:
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        return io.TextIOWrapper(
            open_binary(file), encoding, errors="cleanclip-unreadable", newline=""
        )

    def _header(self, file: str, stream: io.TextIOWrapper) -> list[str]:
        lines = iter(partial(stream.readline, LONGEST_LINE), "")
        try:
            first = next((row for row in csv.reader(lines, delimiter=self.delimiter) if row), None)
        except csv.Error as error:
            raise UserError(f"{file}: the line of column names is broken: {error}.") from error
        if first is None:
            raise UserError(f"{file}: the file is empty; it needs a line of column names.")
        if any(UNREADABLE in name for name in first):
            raise UserError(f"{file}: is not {self.encoding}; name what it is in with encoding=...")
        return first


def records(
    stream: io.TextIOBase, delimiter: str, width: int
) -> Iterator[Sequence[list[str] | str]]:
    """Yields records in blocks: each's fields, or why it has not `width` of them.

    Blank lines are no records. A quote that nothing closes would swallow the records after it, up
    to the next quote: then its line alone is the broken record, and reading goes on with the line
    after it.
    """
    csv.field_size_limit(LONGEST_FIELD)
    source = _lines(stream)
    while block := list(_block(source)):
        try:
            rows = list(csv.reader(block, delimiter=delimiter, strict=True))
            sound = set(map(len, rows)) == {width}
        except csv.Error:
            rows, sound = [], False
        # A block at a time is five times as fast as a record at a time.
        yield rows if sound else list(_one_by_one(block, source, delimiter, width))


def _lines(stream: io.TextIOBase) -> Iterator[str]:
    """Lines, of which one that is too long is cut and marked."""
    while line := stream.readline(LONGEST_LINE):
        rest = line
        while len(rest) == LONGEST_LINE and rest[-1] not in "\r\n":
            rest = stream.readline(LONGEST_LINE)
        yield line if rest is line else f"{line}{UNREADABLE}\n"


def _block(source: Iterator[str]) -> Iterator[str]:
    size = 0
    for count, line in enumerate(source, 1):
        yield line
        size += len(line)
        if count == BATCH_ROWS or size > BATCH_SIZE:
            return


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
            # A line whose fields are all there but for quotes left bare, as pandas reads them.
            bare = len(taken) == 1 and str(error) != "unexpected end of data"
            try:
                fields = next(csv.reader(taken, delimiter=delimiter)) if bare else []
            except csv.Error:
                fields = []
            if len(fields) == width:
                yield fields
            elif len(taken) == 1 and len(taken[0]) > LONGEST_FIELD:
                yield f"a field of more than {LONGEST_FIELD:,} characters"
            else:
                yield f"a quote is not closed, or stands within a field ({error})"
            ahead.extendleft(reversed(taken[1:]))
            rows = csv.reader(feed(), delimiter=delimiter, strict=True)
            continue
        if len(fields) == width:
            yield fields
        elif fields:
            yield f"{len(fields)} field{'s' * (len(fields) > 1)}, where the header has {width}"
