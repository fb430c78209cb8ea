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
import pyarrow.compute as pc

from cleanclip_jax.data.paths import digests, reason
from cleanclip_jax.data.table.cache import Held, kept_copy
from cleanclip_jax.data.table.rows import Reader, Rows
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.record import fingerprint_of, order_names

log = logging.getLogger(__name__)

FORMAT = 2
SCHEMA = {
    "image": pa.large_binary(),  # a picture's bytes, or
    "path": pa.large_string(),  # where its file is, or
    "start": pa.int64(),  # where it begins in the table's file itself
    "length": pa.int64(),
    "file": pa.int32(),  # which of the table's files
    "caption": pa.large_string(),
    "label": pa.int32(),  # -1: none
    "row": pa.int64(),  # in its file, from 1
    "name": pa.large_string(),
    "bad": pa.string(),  # why the record cannot be read
}
# What a table has none of takes no place in its copy.
MAY_LACK = {"image", "path", "start", "length", "name"}


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
) -> tuple[Path, Held, str]:
    """The memory-mappable copy of some files' selected rows, made unless it is there already.

    Args:
      content: what the fingerprint knows the files by; a digest of every byte if None.

    Returns:
      The copy's path (columns: SCHEMA; the class names are in the metadata), what holds it in
      the cache, and a fingerprint of the content and the selection.

    Raises:
      UserError: on a missing or broken file, a missing column, no row left, or a full disk.
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
    table = _Tables(files, reader, selection)
    try:
        copy, held = kept_copy(f"{fingerprint[:32]}.arrow", table.write)
    except OSError as error:
        raise UserError(
            f"{files[0]}: cannot be converted to the cache ({reason(error)}); set CLEANCLIP_CACHE "
            "to a folder with space."
        ) from error
    return copy, held, fingerprint


class _Tables:
    """Files on their way into one copy."""

    def __init__(self, files: Sequence[str], reader: Reader, selection: Selection):
        self._files, self._reader, self._selection = files, reader, selection

    def write(self, target: Path) -> None:
        self._check_columns()
        log.info("converting %s to the cache, once", self._files[0])
        names = self._class_names()
        start, stop = self._selection.rows
        kept = 0
        schema = writer = None
        with pa.OSFile(str(target), "wb") as sink:
            for file, rows, first in self._rows(self._selection.columns()):
                chosen = self._filter(file, rows)
                rank = kept + np.cumsum(chosen) - 1
                kept += int(chosen.sum())
                chosen &= rank >= start
                if stop is not None:
                    chosen &= rank < stop
                if chosen.any():
                    try:
                        made = self._columns(file, _take(rows, chosen), names)
                        made["row"] = pa.array(first + np.flatnonzero(chosen) + 1)
                        schema = schema or _schema(made, names)
                        batch = self._fitted(file, made, schema)
                    except pa.ArrowException as error:
                        raise UserError(
                            f"{self._files[file]}: a column is of no use as what it is named for "
                            f"({reason(error)})."
                        ) from error
                    writer = writer or pa.ipc.new_file(sink, schema)
                    writer.write_batch(batch)
                if stop is not None and kept >= stop:
                    break
            if writer is None:
                raise UserError(self._nothing_left(kept))
            writer.close()

    def _rows(self, columns: list[str]) -> Iterator[tuple[int, Rows, int]]:
        """Number of the file, rows, and the number of the first of them in that file."""
        for number, file in enumerate(self._files):
            first = 0
            try:
                for rows in self._reader.batches(file, columns):
                    yield number, rows, first
                    first += len(rows)
            except (OSError, ValueError) as error:  # Arrow's own, too, are one of them
                raise UserError(
                    f"{file}: unreadable as {self._reader.kind} ({reason(error)})."
                ) from error

    def _check_columns(self) -> None:
        for file in self._files:
            try:
                present = self._reader.columns(file)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{file}: unreadable as {self._reader.kind} ({reason(error)})."
                ) from error
            for column in self._selection.columns():
                if present is not None and column not in present:
                    raise UserError(
                        f"{file}: no column {column!r}, it has {', '.join(present)}."
                        + near(column, present)
                    )

    def _class_names(self) -> tuple[str, ...] | None:
        column = self._selection.class_name
        if column is None or self._selection.classes is not None:
            return self._selection.classes
        names: set[str] = set()
        for _, rows, _ in self._rows([column]):
            values = rows.columns.column(0).cast(pa.large_string()).unique()
            names.update(value for value in values.to_pylist() if value)
        return order_names(names)

    def _filter(self, number: int, rows: Rows) -> np.ndarray:
        chosen = np.ones(len(rows), bool)
        for name, wanted in self._selection.where.items():
            column = rows.columns.column(name)
            values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                values = [str(value) for value in values]
            try:
                values = pa.array(values).cast(column.type)
                matches = pc.is_in(column, values)  # pyright: ignore[reportAttributeAccessIssue]
            except pa.ArrowException as error:
                raise UserError(
                    f"{self._files[number]}: where {name}={wanted!r} does not fit the column, "
                    f"which holds {column.type}."
                ) from error
            if rows.bad is not None:
                # What a broken row holds nobody knows: it counts as one of any choice.
                unknown = pc.and_(column.is_null(), rows.bad.is_valid())  # pyright: ignore[reportAttributeAccessIssue]
                matches = pc.or_(matches, unknown)  # pyright: ignore[reportAttributeAccessIssue]
            chosen &= matches.to_numpy(zero_copy_only=False)
        return chosen

    def _columns(
        self, number: int, rows: Rows, names: tuple[str, ...] | None
    ) -> dict[str, pa.Array]:
        chosen, count = self._selection, len(rows)
        none = pa.nulls(count)
        made = dict.fromkeys(SCHEMA, none)
        made |= {"label": pa.array(np.full(count, -1)), "file": pa.array(np.full(count, number))}
        if chosen.image is not None:
            column = rows.columns.column(chosen.image)
            made |= _image_columns(self._files[number], chosen.image, column)
        if chosen.caption is not None:
            made["caption"] = _captions(rows.columns.column(chosen.caption))
        if names is not None and chosen.class_name is not None:
            made["label"] = self._labels(number, rows.columns.column(chosen.class_name), names)
        if rows.bad is not None:
            made["bad"] = rows.bad
        if rows.names is not None:
            made["name"] = rows.names
        return made

    def _labels(self, number: int, column: pa.Array, names: tuple[str, ...]) -> pa.Array:
        index = {name: i for i, name in enumerate(names)}
        if self._selection.classes is not None:
            # A column of whole numbers with gaps is written as 3.0 by many a tool.
            numbers = {f"{i}{end}": i for i in range(len(names)) for end in ("", ".0")}
            index = numbers | index
        values = column.cast(pa.large_string())
        for value in values.unique().to_pylist():
            if value and names.count(value) > 1:
                raise UserError(
                    f"{self._files[number]}: {self._selection.class_name}={value!r} names "
                    f"{names.count(value)} classes; give their numbers."
                )
            if value and value not in index:
                raise UserError(
                    f"{self._files[number]}: {self._selection.class_name}={value!r} is none of the "
                    f"{len(names)} classes, nor a number below that." + near(value, names)
                )
        return pa.array([index.get(value, -1) for value in values.to_pylist()], pa.int32())

    def _fitted(self, number: int, made: dict[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
        for field in schema:
            if pa.types.is_null(field.type) and not pa.types.is_null(made[field.name].type):
                raise UserError(
                    f"{self._files[number]}: column {self._selection.image!r} holds images in "
                    f"another way than that of {self._files[0]}; make them alike."
                )
        return pa.record_batch([made[f.name].cast(f.type) for f in schema], schema=schema)

    def _nothing_left(self, kept: int) -> str:
        file, chosen = self._files[0], self._selection
        if not chosen.where or kept:
            return f"{file}: rows {chosen.rows} of {kept}: none left."
        asked = ", ".join(f"{name}={value!r}" for name, value in chosen.where.items())
        name, wanted = next(iter(chosen.where.items()))
        values: set[str] = set()
        for _, rows, _ in self._rows([name]):
            values.update(str(value) for value in rows.columns.column(0).unique().to_pylist())
        some = ", ".join(repr(value) for value in sorted(values)[:10])
        more = ", …" if len(values) > 10 else ""
        return f"{file}: no row where {asked}; {name} holds {some}{more}." + near(
            str(wanted), values
        )


def _schema(made: dict[str, pa.Array], names: tuple[str, ...] | None) -> pa.Schema:
    types = {
        name: pa.null() if name in MAY_LACK and pa.types.is_null(made[name].type) else kind
        for name, kind in SCHEMA.items()
    }
    return pa.schema(types, metadata={"class_names": json.dumps(names)})


def _take(rows: Rows, chosen: np.ndarray) -> Rows:
    if chosen.all():
        return rows
    mask = pa.array(chosen)
    return Rows(
        rows.columns.filter(mask) if rows.columns.num_columns else rows.columns,
        None if rows.bad is None else rows.bad.filter(mask),
        None if rows.names is None else rows.names.filter(mask),
    )


def _image_columns(file: str, name: str, column: pa.Array) -> dict[str, pa.Array]:
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
        if found := {known[field]: fields[field] for field in known if field in fields}:
            return found
    raise UserError(
        f"{file}: column {name!r} holds {kind}, not image files (binary, or a struct of bytes "
        "and path) or their paths (text)."
    )


def _captions(column: pa.Array) -> pa.Array:
    """Captions as text; the NaN that pandas writes for a missing one is none."""
    text = column.cast(pa.large_string())
    missing = pc.equal(pc.utf8_lower(text), "nan")  # pyright: ignore[reportAttributeAccessIssue]
    return pc.if_else(missing, None, text)  # pyright: ignore[reportAttributeAccessIssue]
