"""Records of CSV and TSV files, one by one: a broken one does not take its neighbours along.

By Python's csv and not Arrow's, which reads on over an open quote and joins records in silence.
"""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from cleanclip_jax.data.paths import open_binary
from cleanclip_jax.data.table.rows import batch_of
from cleanclip_jax.errors import UserError

BATCH_ROWS = 16_384
LONGEST_FIELD = 1 << 20  # characters; the end of an open quote is looked for no further

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
                arrays = [self._texts(column, bad) for column in values]
                yield batch_of(dict(zip(columns, arrays, strict=True)), bad)

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

    def _texts(self, values: list[str | None], bad: list[str | None]) -> pa.Array:
        try:
            return pa.array(values, pa.large_string())
        except UnicodeEncodeError:
            for i, value in enumerate(values):
                if value is not None and UNREADABLE in value:
                    values[i], bad[i] = None, f"not {self.encoding}"
            return pa.array(values, pa.large_string())


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
            # A line whose fields are all there but for quotes left bare, as pandas reads them.
            bare = len(taken) == 1 and str(error) != "unexpected end of data"
            fields = next(csv.reader(taken, delimiter=delimiter)) if bare else []
            if len(fields) == width:
                yield fields
            else:
                yield f"a quote is not closed, or stands within a field ({error})"
            ahead.extendleft(reversed(taken[1:]))
            rows = csv.reader(feed(), delimiter=delimiter, strict=True)
            continue
        if len(fields) == width:
            yield fields
        elif fields:
            yield f"{len(fields)} field{'s' * (len(fields) > 1)}, where the header has {width}"
