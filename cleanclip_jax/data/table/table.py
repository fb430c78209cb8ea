"""Pairs from tables: CSV, TSV and parquet files, and whatever else becomes an Arrow copy."""

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from cleanclip_jax.cache import Held
from cleanclip_jax.data.paths import (
    check_bytes,
    is_one_file,
    join,
    local,
    parent,
    read_bytes,
    read_range,
    short_names,
)
from cleanclip_jax.data.table.arrow_copy import Selection, arrow_copy
from cleanclip_jax.data.table.columns import Reader
from cleanclip_jax.errors import UserError, reason, refusing
from cleanclip_jax.record import Record, Source, fingerprint_of, template_caption
from cleanclip_jax.views.decode import BadRecord

DELIMITERS = {"csv": ",", "tsv": "\t"}


def open_table(
    kind: str,
    path: str | Path | Sequence[str | Path],
    image: str = "image",
    caption: str | None = "caption",
    class_name: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    root: str | Path | None = None,
    where: Mapping[str, Any] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> "Table":
    """Files of pairs.

    Args:
      kind: 'csv', 'tsv' or 'parquet'.
      path: the file; a folder, a pattern (also with braces) or a list of them: see listing.expand.
      image: column of image paths, of image files' bytes, or of Hugging Face's {bytes, path}.
      caption: column of captions, or in parquet of lists of them, of which training draws one an
        epoch; None for a set that is only measured on. Empty, null or NaN is a record without.
      class_name: column of class names; classes are those of all the files, so that the
        splits of one file agree.
      classes: the class names in order, or the file they are in (text.classes): class_name then
        holds their names or their numbers, from 0.
      root: folder that relative image paths start from; that of each file if None.
      where: column → value or list of values: only rows that hold them.
      rows: of the rows left by `where`, the first so many, or (first, last exclusive).
      templates: names or texts of prompts; captions are then made from them and the class.
      encoding: of a text file.
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except (LookupError, ValueError):
        raise UserError(
            f"encoding: unknown {encoding!r}; 'utf-8' and 'latin-1' are usual."
        ) from None
    if isinstance(path, str | Path) and is_one_file(path, f".{kind}"):
        files = [local(path)]
    else:
        from cleanclip_jax.data.listing import expand  # most tables are one file

        files = expand(path, f".{kind}")
    folder, reader = None if root is None else local(root), _reader(kind, encoding)
    columns, chosen = (image, caption, class_name), (where, rows, templates)
    return make_table(files, reader, columns, chosen, classes, folder)


open_csv, open_tsv, open_parquet = (partial(open_table, kind) for kind in ("csv", "tsv", "parquet"))


def _reader(kind: str, encoding: str) -> Reader:
    if kind == "parquet":
        from cleanclip_jax.data.table.parquet_file import ParquetReader

        return ParquetReader()
    from cleanclip_jax.data.table.text_file import TextReader

    return TextReader(DELIMITERS[kind], encoding, kind)


def make_table(
    files: Sequence[str],
    reader: Reader,
    columns: tuple[str | None, str | None, str | None],
    chosen: tuple[Mapping[str, Any] | None, Any, Any],
    classes: str | Path | Sequence[str] | None = None,
    root: str | None = None,
    content: object = None,
) -> "Table":
    """The table that a reader makes of files.

    Args:
      columns: open_table's image, caption and class_name.
      chosen: its where, rows and templates.
      content: what the files are known by; a digest of every byte if None.
    """
    (image, caption, class_name), (where, rows, templates) = columns, chosen
    place = files[0]
    if templates is not None:
        if class_name is None:
            raise UserError(f"{place}: templates need class_name, the column of class names.")
        caption = None
    if classes is not None and class_name is None:
        raise UserError(f"{place}: classes need class_name, the column of their names or numbers.")
    names = None if classes is None else _names(classes)
    selection = Selection(image, caption, class_name, names, dict(where or {}), _range(place, rows))
    held, content = arrow_copy(files, reader, selection, content)
    texts = None
    if templates is not None:
        from cleanclip_jax.text.prompts import templates as find_templates

        texts = find_templates(templates)
    fingerprint = fingerprint_of(table=content, templates=texts)
    return Table(held.path, tuple(files), root, texts, fingerprint)


class Table(Source):
    """A memory-mapped table of pairs; pickles as the path of its Arrow copy.

    Args:
      copy: the Arrow file.
      files: what it was made of: places in them are read from there, and named.
      root: folder that relative image paths start from; that of each file if None.
    """

    def __init__(
        self,
        copy: Path,
        files: tuple[str, ...],
        root: str | None,
        templates: tuple[str, ...] | None,
        fingerprint: str,
    ):
        self.args: tuple[Any, ...] = (copy, files, root, templates, fingerprint)
        self._files, self._root, self._templates = files, root, templates
        self._names = short_names(files)
        self.fingerprint = fingerprint
        broken = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)
        with refusing(str(copy), "remove this file and start again", *broken):
            self._held = Held(copy)
            table = pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
            names = json.loads(table.schema.metadata[b"class_names"])
        self.class_names: tuple[str, ...] | None = None if names is None else tuple(names)
        self._rows = len(table)
        self._columns = {name: table.column(name) for name in table.column_names}
        if templates is not None:
            self._check_every_class()

    def __reduce__(self):
        return type(self), self.args

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Record:
        if (bad := self._at("bad", index)) is not None:
            raise BadRecord(f"{self.where(index)}: {bad}; correct or remove the row.")
        label = self._at("label", index)
        return Record(self._image(index), self.caption(index), label, self.where(index))

    def caption(self, index: int) -> str:
        if self._templates is None:
            return self._at("caption", index) or ""
        label = self._at("label", index)
        if label < 0 or self.class_names is None:
            return ""
        return template_caption(self.row(index), self._templates, self.class_names[label])

    def all_captions(self, index: int) -> Sequence[str]:
        # A copy that an earlier version made has no such column.
        several = self._at("captions", index) if "captions" in self._columns else None
        return several or (self.caption(index),)

    def has_lists(self) -> bool:
        column = self._columns.get("captions")
        return column is not None and not pa.types.is_null(column.type)

    def where(self, index: int) -> str:
        name = self._at("name", index) or f"row {self.row(index)}"
        return f"{self._names[self._at('file', index)]} {name}"

    def row(self, index: int) -> int:
        """The record's number in its file, from 1."""
        return self._at("row", index)

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._columns["label"].to_numpy().astype(np.int64)

    def values(self, column: str) -> list[Any]:
        """A column of the copy (arrow_copy.SCHEMA), None where a row has no value."""
        return self._columns[column].to_pylist()

    def _at(self, column: str, index: int) -> Any:
        return self._columns[column][index].as_py()

    def _image(self, index: int) -> bytes:
        place = file = self._files[self._at("file", index)]
        try:
            if (data := self._at("image", index)) is not None:
                check_bytes(len(data))
                return data
            start, length = self._at("start", index), self._at("length", index)
            if start is not None and length is not None:
                return read_range(file, start, length)
            if path := self._at("path", index):
                place = join(self._root or parent(file), path)
                return read_bytes(place)
        # A path with a null character in it is a ValueError.
        except (OSError, ValueError) as error:
            raise BadRecord(f"{self.where(index)}: image {place}: {reason(error)}.") from error
        raise BadRecord(f"{self.where(index)}: no image; fill it in or remove the row.")

    def _check_every_class(self) -> None:
        without = np.flatnonzero((self.labels() < 0) & self._columns["bad"].is_null().to_numpy())
        if len(without):
            raise UserError(
                f"{self.where(int(without[0]))}: no class to make a caption of, as in "
                f"{len(without)} of {len(self)} rows; choose rows that have one with where."
            )


def _range(place: str, rows: object) -> tuple[int, int | None]:
    match rows:
        case None:
            return 0, None
        case int(stop) if stop > 0:
            return 0, stop
        case [int(start), None] if start >= 0:
            return start, None
        case [int(start), int(stop)] if stop > start >= 0:
            return start, stop
    raise UserError(
        f"{place}: rows={rows!r}: give a number of rows, or the first and the last (exclusive)."
    )


def _names(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str | Path):
        from cleanclip_jax.text.classes import read_classes

        return read_classes(local(given)).names
    if not all(isinstance(name, str) for name in given):
        raise UserError(f"classes: {given}: give a list of names, or the file they are in.")
    return tuple(given)
