"""Tables of pairs to one uncompressed Arrow file that can be memory-mapped.

Parquet is compressed by row group, a tar and a CSV have no index: none gives a row at random
access without holding the table in memory. Each is converted once, in a stream, to the cache.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from cleanclip_jax.cache import Held, cached
from cleanclip_jax.data.paths import digests
from cleanclip_jax.data.table.rows import BAD, NAME, Reader
from cleanclip_jax.errors import UserError, reason, unknown
from cleanclip_jax.record import fingerprint_of, order_names

log = logging.getLogger(__name__)
pc: Any = compute  # its functions are made when it is imported: pyright knows none

FORMAT = 2
SCHEMA = {
    "image": pa.large_binary(),  # a picture's bytes, or
    "path": pa.large_string(),  # where its file is, or
    "start": pa.int64(),  # where it begins in the table's file itself
    "length": pa.int64(),
    "file": pa.int32(),  # which of the table's files
    "caption": pa.large_string(),  # of several the first
    "captions": pa.list_(pa.large_string()),  # where there may be several
    "label": pa.int32(),  # -1: none
    "row": pa.int64(),  # in its file, from 1
    "name": pa.large_string(),
    "bad": pa.string(),  # why the record cannot be read
}
# What a table has none of takes no place in its copy.
MAY_LACK = {"captions", "image", "path", "start", "length", "name"}


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
    try:
        fingerprint = fingerprint_of(
            content=content or digests(files),
            format=FORMAT,
            reader=asdict(reader),  # pyright: ignore[reportArgumentType]
            **asdict(selection),
        )
    except OSError as error:
        place = error.filename or files[0]
        raise UserError(f"{place}: {reason(error)}; check the data's path.") from error
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
            with self._reading(file):
                present = self._reader.columns(file)
            for column in self._selection.columns():
                if present is not None and column not in present:
                    raise unknown(f"{file}: column", column, present)
        log.info("converting %s to the cache, once", self._files[0])
        names = self._class_names()
        start, stop = self._selection.rows
        count = 0
        schema = writer = None
        with pa.OSFile(str(target), "wb") as sink:
            for file, first, rows in self._batches(self._selection.columns()):
                chosen = self._chosen(file, rows)
                rank = count + np.cumsum(chosen) - 1
                count += int(chosen.sum())
                chosen &= (rank >= start) & (stop is None or rank < stop)
                if chosen.any():
                    try:
                        rows = rows if chosen.all() else rows.filter(pa.array(chosen))
                        columns = self._columns(file, rows, names)
                        columns["row"] = pa.array(first + np.flatnonzero(chosen) + 1)
                        schema = schema or _schema(columns, names)
                        writer = writer or pa.ipc.new_file(sink, schema)
                        writer.write_batch(self._fitted(file, columns, schema))
                    except pa.ArrowException as error:
                        raise UserError(
                            f"{self._files[file]}: a column is of no use as what it is named for "
                            f"({reason(error)})."
                        ) from error
                if stop is not None and count >= stop:
                    break
            if writer is None:
                raise self._nothing_left(count)
            writer.close()

    @contextmanager
    def _reading(self, file: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # Arrow's errors, too, are one of them
            raise UserError(
                f"{file}: unreadable as {self._reader.kind} ({reason(error)})."
            ) from error

    def _batches(self, columns: list[str]) -> Iterator[tuple[int, int, pa.RecordBatch]]:
        """Number of the file, number of the first of the rows in that file, and rows."""
        for number, file in enumerate(self._files):
            first = 0
            with self._reading(file):
                for rows in self._reader.batches(file, columns):
                    yield number, first, rows
                    first += len(rows)

    def _distinct(self, column: str) -> Iterator[pa.Array]:
        for _, _, rows in self._batches([column]):
            yield rows.column(column).unique()

    def _class_names(self) -> tuple[str, ...] | None:
        column = self._selection.class_name
        if column is None or self._selection.classes is not None:
            return self._selection.classes
        parts = (values.cast(pa.large_string()).to_pylist() for values in self._distinct(column))
        return order_names({name for part in parts for name in part if name})

    def _chosen(self, number: int, rows: pa.RecordBatch) -> np.ndarray:
        """Which rows hold what `where` names."""
        chosen = np.ones(len(rows), bool)
        for name, wanted in self._selection.where.items():
            column = rows.column(name)
            values = _listed(wanted)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                values = [str(value) for value in values]
            try:
                matches = pc.is_in(column, pa.array(values).cast(column.type))
            except pa.ArrowException as error:
                raise UserError(
                    f"{self._files[number]}: where {name}={wanted!r} does not fit the column, "
                    f"which holds {column.type}."
                ) from error
            # What a broken row holds nobody knows: it counts as one of any choice.
            matches = pc.or_(matches, pc.and_(column.is_null(), rows.column(BAD).is_valid()))
            chosen &= matches.to_numpy(zero_copy_only=False)
        return chosen

    def _columns(
        self, number: int, rows: pa.RecordBatch, names: tuple[str, ...] | None
    ) -> dict[str, pa.Array]:
        selection, count = self._selection, len(rows)
        columns = dict.fromkeys(SCHEMA, pa.nulls(count))
        columns |= {"label": pa.array(np.full(count, -1)), "bad": rows.column(BAD)}
        columns["file"] = pa.array(np.full(count, number))
        if selection.image is not None:
            place = f"{self._files[number]}: column {selection.image!r}"
            columns |= _image_columns(place, rows.column(selection.image))
        if selection.caption is not None:
            columns |= _caption_columns(rows.column(selection.caption))
        if names is not None and selection.class_name is not None:
            place = f"{self._files[number]}: {selection.class_name}"
            column = rows.column(selection.class_name)
            columns["label"] = _labels(place, column, names, selection.classes is not None)
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
        file, selection = self._files[0], self._selection
        if not selection.where or count:
            return UserError(f"{file}: rows {selection.rows} of {count}: none left.")
        for name, wanted in selection.where.items():
            values = {str(value) for part in self._distinct(name) for value in part.to_pylist()}
            if not values.intersection(map(str, _listed(wanted))):
                return unknown(f"{file}: where {name}", _listed(wanted)[0], sorted(values))
        wanted = ", ".join(f"{name}={value!r}" for name, value in selection.where.items())
        return UserError(f"{file}: no row where {wanted}.")


def _listed(wanted: object) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _schema(columns: dict[str, pa.Array], names: tuple[str, ...] | None) -> pa.Schema:
    types = {
        name: pa.null() if name in MAY_LACK and pa.types.is_null(columns[name].type) else kind
        for name, kind in SCHEMA.items()
    }
    return pa.schema(types, metadata={"class_names": json.dumps(names)})


def _labels(place: str, column: pa.Array, names: tuple[str, ...], given: bool) -> pa.Array:
    """Numbers of the classes; where their names are given, the column may hold numbers too."""
    index = {name: i for i, name in enumerate(names)}
    if given:
        # A column of whole numbers with gaps is written as 3.0 by many a tool.
        index = {f"{i}{end}": i for i in range(len(names)) for end in ("", ".0")} | index
    values = column.cast(pa.large_string())
    for value in values.unique().to_pylist():
        if value and names.count(value) > 1:
            count = names.count(value)
            raise UserError(f"{place}={value!r} names {count} classes; give their numbers.")
        if value and value not in index:
            raise unknown(f"{place}, by name or number of {len(names)} classes", value, names)
    return pa.array([index.get(value, -1) for value in values.to_pylist()], pa.int32())


def _caption_columns(column: pa.Array) -> dict[str, pa.Array]:
    """A column of captions, or of lists of them."""
    # The NaN that pandas writes for a missing caption is none.
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        text = column.cast(pa.large_string())
        return {"caption": pc.if_else(pc.equal(pc.utf8_lower(text), "nan"), None, text)}
    lists = column.cast(SCHEMA["captions"])
    lists.validate(full=True)  # text that is none is an error of Arrow's
    several = [
        [text for text in texts or () if text and text.strip() and text.lower() != "nan"]
        for texts in lists.to_pylist()
    ]
    firsts = pa.array([texts[0] if texts else None for texts in several], SCHEMA["caption"])
    return {"captions": pa.array(several, SCHEMA["captions"]), "caption": firsts}


def _image_columns(place: str, column: pa.Array) -> dict[str, pa.Array]:
    """An image column as files' bytes, files' paths or places in the file itself."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return {"image": column}
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return {"path": column}
    if pa.types.is_struct(kind):
        # {bytes, path} is Hugging Face's image feature; {start, length} what tars' readers give.
        fields = dict(zip([field.name for field in kind], column.flatten(), strict=True))
        known = {"bytes": "image", "path": "path", "start": "start", "length": "length"}
        if columns := {known[field]: fields[field] for field in known if field in fields}:
            return columns
    raise UserError(
        f"{place} holds {kind}, not image files (binary, or a struct of bytes and path) or their "
        "paths (text)."
    )
