"""Tables of pairs to one uncompressed Arrow file that can be memory-mapped.

Parquet is compressed by row group, a tar and a CSV have no index: none gives a row at random
access without holding the table in memory. Each is converted once, in a stream, to the cache.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cleanclip_jax.cache import Held, cached
from cleanclip_jax.data.paths import digests
from cleanclip_jax.data.table.columns import (
    BAD,
    MAY_LACK,
    NAME,
    SCHEMA,
    Reader,
    captions,
    holds,
    images,
    labels,
    listed,
    texts,
)
from cleanclip_jax.errors import UserError, reason, refusing, unknown
from cleanclip_jax.record import fingerprint_of, order_names

log = logging.getLogger(__name__)

FORMAT = 2
# Of files that are not what they are named: Arrow's errors, and Python's of text and numbers.
BROKEN = (OSError, ValueError, pa.ArrowException, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Selection:
    """The columns and rows of files that become a source.

    Attributes:
      image, caption, class_name: columns; None leaves one out.
      classes: class names in order, whose names or numbers class_name holds; None: the names
        that it holds anywhere in the files, so that splits agree.
      where: column → the value, or a list of the values, that a row must hold.
      rows: first and last (exclusive) row, counted among the rows that `where` leaves.
    """

    image: str | None
    caption: str | None
    class_name: str | None
    classes: tuple[str, ...] | None
    where: Mapping[str, object]
    rows: tuple[int, int | None]

    def columns(self) -> list[str]:
        named = [self.image, self.caption, self.class_name, *self.where]
        return list(dict.fromkeys(name for name in named if name is not None))


def arrow_copy(
    files: Sequence[str], reader: Reader, selection: Selection, content: object = None
) -> tuple[Held, str]:
    """The memory-mappable copy of some files' selected rows, made unless it is there already.

    Args:
      content: what the fingerprint knows the files by; a digest of every byte if None.

    Returns:
      The copy in the cache (columns: SCHEMA; the class names are in the metadata), and a
      fingerprint of the content and the selection.
    """
    with refusing(files[0], "check the data's path", OSError):
        about = asdict(reader)  # pyright: ignore[reportArgumentType]
        fingerprint = fingerprint_of(
            content=content or digests(files),
            format=FORMAT,
            # What a reader has none of decides nothing.
            reader={key: value for key, value in about.items() if value is not None},
            **asdict(selection),
        )
    try:
        name = f"tables/{fingerprint[:32]}.arrow"
        return cached(name, _Conversion(files, reader, selection).write), fingerprint
    except OSError as error:
        raise UserError(
            f"{files[0]}: cannot be converted to the cache ({reason(error)}); set CLEANCLIP_CACHE "
            "to a folder with space."
        ) from error


class _Conversion:
    """Files on their way into one copy."""

    def __init__(self, files: Sequence[str], reader: Reader, selection: Selection):
        self._files, self._reader, self._selection = files, reader, selection

    def write(self, target: Path) -> None:
        for file in self._files:
            self._check_columns(file)
        log.info("converting %s to the cache, once", self._files[0])
        names = self._class_names()
        start, stop = self._selection.rows
        count = 0
        schema = writer = None
        with pa.OSFile(str(target), "wb") as sink:
            for number, first, rows in self._batches(self._selection.columns()):
                chosen = np.ones(len(rows), bool)
                for name, wanted in self._selection.where.items():
                    chosen &= holds(self._files[number], rows, name, wanted)
                rank = count + np.cumsum(chosen) - 1
                count += int(chosen.sum())
                chosen &= (rank >= start) & (stop is None or rank < stop)
                if chosen.any():
                    rows = rows if chosen.all() else rows.filter(pa.array(chosen))
                    columns = self._columns(number, rows, names)
                    columns["row"] = pa.array(first + np.flatnonzero(chosen) + 1)
                    schema = schema or _schema(columns, names)
                    writer = writer or pa.ipc.new_file(sink, schema)
                    writer.write_batch(self._fitted(number, columns, schema))
                if stop is not None and count >= stop:
                    break
            if writer is None:
                raise self._nothing_left(count)
            writer.close()

    def _check_columns(self, file: str) -> None:
        """Refuses a file that lacks a column which is read, or has two of its name."""
        with refusing(f"{file}: unreadable as {self._reader.kind}", "check the file", *BROKEN):
            present = self._reader.columns(file)
        for column in self._selection.columns():
            if present is not None and column not in present:
                raise unknown(f"{file}: column", column, present)
            if present is not None and present.count(column) > 1:
                raise UserError(f"{file}: two columns are called {column!r}; rename one of them.")

    def _batches(self, columns: list[str]) -> Iterator[tuple[int, int, pa.RecordBatch]]:
        """Number of the file, number of the first of the rows in that file, and rows."""
        for number, file in enumerate(self._files):
            first = 0
            with refusing(f"{file}: unreadable as {self._reader.kind}", "check the file", *BROKEN):
                for rows in self._reader.batches(file, columns):
                    yield number, first, rows
                    first += len(rows)

    def _distinct(self, column: str) -> Iterator[str]:
        """The values in a column, as texts; some of them several times."""
        for number, _, rows in self._batches([column]):
            place = f"{self._files[number]}: column {column!r}"
            yield from filter(None, texts(place, rows.column(column)).unique().to_pylist())

    def _class_names(self) -> tuple[str, ...] | None:
        column = self._selection.class_name
        if column is None or self._selection.classes is not None:
            return self._selection.classes
        return order_names(self._distinct(column))

    def _columns(
        self, number: int, rows: pa.RecordBatch, names: tuple[str, ...] | None
    ) -> dict[str, pa.Array]:
        selection, count, file = self._selection, len(rows), self._files[number]
        columns = dict.fromkeys(SCHEMA, pa.nulls(count))
        columns |= {"label": pa.array(np.full(count, -1)), "bad": rows.column(BAD)}
        columns["file"] = pa.array(np.full(count, number))
        if selection.image is not None:
            place = f"{file}: column {selection.image!r}"
            columns |= images(place, rows.column(selection.image))
        if (name := selection.caption) is not None:
            columns |= captions(f"{file}: column {name!r}", rows.column(name))
        if names is not None and (name := selection.class_name) is not None:
            given = selection.classes is not None
            columns["label"] = labels(f"{file}: {name}", rows.column(name), names, given)
        if NAME in rows.schema.names:
            columns["name"] = rows.column(NAME)
        return columns

    def _fitted(
        self, number: int, columns: dict[str, pa.Array], schema: pa.Schema
    ) -> pa.RecordBatch:
        for field in schema:
            if pa.types.is_null(field.type) and not pa.types.is_null(columns[field.name].type):
                what = "caption" if field.name == "captions" else "image"
                raise UserError(
                    f"{self._files[number]}: column {getattr(self._selection, what)!r} holds "
                    f"{what}s in another way than that of {self._files[0]}; make them alike."
                )
        return pa.record_batch([columns[f.name].cast(f.type) for f in schema], schema=schema)

    def _nothing_left(self, count: int) -> UserError:
        file, where, (start, stop) = self._files[0], self._selection.where, self._selection.rows
        if count:
            which = f"{start} on" if stop is None else f"{start} to {stop}"
            return UserError(f"{file}: rows {which} of {count}: none left; give others.")
        for name, wanted in where.items():
            values = set(self._distinct(name))
            words = list(map(str, listed(wanted)))
            if not any(word in values or word.lower() in values for word in words):  # true for True
                return unknown(f"{file}: where {name}", "".join(words[:1]), sorted(values))
        wanted = ", ".join(f"{name}={value!r}" for name, value in where.items())
        return UserError(
            f"{file}: no row where {wanted}." if wanted else f"{file}: it has no rows."
        )


def _schema(columns: dict[str, pa.Array], names: tuple[str, ...] | None) -> pa.Schema:
    types = {
        name: pa.null() if name in MAY_LACK and pa.types.is_null(columns[name].type) else kind
        for name, kind in SCHEMA.items()
    }
    return pa.schema(types, metadata={"class_names": json.dumps(names)})
