"""Pairs from tables: CSV, TSV and parquet files, and whatever else becomes an Arrow copy."""

import codecs
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from cleanclip_jax.data.paths import (
    expand,
    join,
    local,
    parent,
    read_bytes,
    read_range,
    reason,
    short_names,
)
from cleanclip_jax.data.table.arrow_copy import Selection, arrow_copy
from cleanclip_jax.data.table.cache import Held
from cleanclip_jax.data.table.parquet_file import ParquetReader
from cleanclip_jax.data.table.rows import Reader
from cleanclip_jax.data.table.text_file import TextReader
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Record, Source, fingerprint_of, template_caption
from cleanclip_jax.text.classes import read_classes
from cleanclip_jax.text.prompts import templates as find_templates
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
      path: the file; a folder, a pattern (also with braces) or a list of them: see paths.expand.
      image: column of image paths, of image files' bytes, or of Hugging Face's {bytes, path}.
      caption: column of captions; None for a set that is only measured on. Empty, null or NaN
        is a record without a caption.
      class_name: column of class names; classes are those of all the files, so that the
        splits of one file agree.
      classes: the class names in order, or the file they are in (text.classes): class_name then
        holds their names or their numbers, from 0.
      root: folder that relative image paths start from; each file's own if None.
      where: column → value or list of values: only rows that hold them.
      rows: of the rows left by `where`, the first so many, or (first, last exclusive).
      templates: names or texts of prompts; captions are then made from them and the class.
      encoding: of a text file.

    Raises:
      UserError: on a missing or broken file, a missing column, or when no row is left.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise UserError(
            f"encoding: unknown {encoding!r}; 'utf-8' and 'latin-1' are usual."
        ) from None
    reader = ParquetReader() if kind == "parquet" else TextReader(DELIMITERS[kind], encoding, kind)
    return make_table(
        expand(path, f".{kind}"),
        reader,
        image=image,
        caption=caption,
        class_name=class_name,
        classes=classes,
        root=None if root is None else local(root),
        where=where,
        rows=rows,
        templates=templates,
    )


def open_labels(
    path: str | Path,
    image: str = "image",
    label: str = "label",
    classes: str | Path | Sequence[str] | None = None,
    root: str | Path | None = None,
    where: Mapping[str, Any] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> "Table":
    """Labelled pictures as the original keeps them: labels.csv and the names of its classes.

    Args:
      path: the CSV, or the folder of a labels.csv.
      label: column of class numbers, from 0, or names.
      classes: as in open_table; classes.json or else classes.py beside the CSV if None.
      image, root, where, rows, templates, encoding: as in open_table.
    """
    file = local(path)
    if not file.endswith(".csv"):
        file = join(file, "labels.csv")
    if classes is None:
        beside = [join(parent(file), name) for name in ("classes.json", "classes.py")]
        classes = next((name for name in beside if Path(name).is_file()), beside[0])
    return open_table(
        "csv",
        file,
        image=image,
        caption=None,
        class_name=label,
        classes=classes,
        root=root,
        where=where,
        rows=rows,
        templates=templates,
        encoding=encoding,
    )


def make_table(
    files: Sequence[str],
    reader: Reader,
    *,
    image: str | None,
    caption: str | None,
    class_name: str | None,
    classes: str | Path | Sequence[str] | None = None,
    root: str | None = None,
    where: Mapping[str, Any] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
    content: object = None,
) -> "Table":
    """The table that a reader makes of files; the arguments are those of open_table.

    Args:
      content: what the files are known by; a digest of every byte if None.
    """
    place = files[0]
    if templates is not None:
        if class_name is None:
            raise UserError(f"{place}: templates need class_name, the column of class names.")
        caption = None
    if classes is not None and class_name is None:
        raise UserError(f"{place}: classes need class_name, the column of their names or numbers.")
    names = None if classes is None else _names(classes)
    selection = Selection(image, caption, class_name, names, dict(where or {}), _range(place, rows))
    # Held until the table holds it too.
    copy, held, fingerprint = arrow_copy(files, reader, selection, content)
    texts = None if templates is None else find_templates(templates)
    table = Table(
        copy=copy,
        files=tuple(files),
        root=root,
        templates=texts,
        fingerprint=fingerprint_of(table=fingerprint, templates=texts),
    )
    del held
    return table


class Table(Source):
    """A memory-mapped table of pairs; pickles as the path of its Arrow copy (data.convert).

    Args:
      copy: the Arrow file.
      files: what it was made of: places in them are read from there, and named.
      root: folder that relative image paths start from; each file's own if None.
    """

    def __init__(
        self,
        copy: Path,
        files: tuple[str, ...],
        root: str | None,
        templates: tuple[str, ...] | None,
        fingerprint: str,
    ):
        self._arguments = (copy, files, root, templates, fingerprint)
        self._files, self._root, self._templates = files, root, templates
        self._names = short_names(files)
        self.fingerprint = fingerprint
        try:
            self._held = Held(copy)
            table = pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{copy}: broken ({reason(error)}); remove it and start again."
            ) from error
        names = json.loads(table.schema.metadata[b"class_names"])
        self.class_names: tuple[str, ...] | None = None if names is None else tuple(names)
        self._rows = len(table)
        self._columns = {name: table.column(name) for name in table.column_names}
        if templates is not None:
            self._check_every_class()

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Record:
        if (bad := self.bad(index)) is not None:
            raise BadRecord(f"{self.where(index)}: {bad}; correct or remove the row.")
        return Record(self._image(index), self.caption(index), self.label(index), self.where(index))

    def bad(self, index: int) -> str | None:
        """Why the table's reader could not take a row; None: it could."""
        return self._at("bad", index)

    def caption(self, index: int) -> str:
        if self._templates is None:
            return self._at("caption", index) or ""
        label = self.label(index)
        if label < 0:
            return ""
        assert self.class_names is not None
        return template_caption(self.row(index), self._templates, self.class_names[label])

    def where(self, index: int) -> str:
        name = self._at("name", index) or f"row {self.row(index)}"
        return f"{self._names[self._at('file', index)]} {name}"

    def row(self, index: int) -> int:
        """The record's number in its file, from 1."""
        return self._at("row", index)

    def label(self, index: int) -> int:
        """The record's class, -1 where it has none."""
        return self._at("label", index)

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._columns["label"].to_numpy().astype(np.int64)

    def _at(self, column: str, index: int) -> Any:
        return self._columns[column][index].as_py()

    def _image(self, index: int) -> bytes:
        if (data := self._at("image", index)) is not None:
            return data
        place = file = self._files[self._at("file", index)]
        try:
            if (start := self._at("start", index)) is not None:
                return read_range(file, start, self._at("length", index))
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


def _range(place: str, rows: int | Sequence[int | None] | None) -> tuple[int, int | None]:
    start, stop = (0, rows) if rows is None or isinstance(rows, int) else tuple(rows)
    if not isinstance(start, int) or start < 0 or (stop is not None and stop <= start):
        raise UserError(
            f"{place}: rows={rows!r}: give a number of rows, or the first and the last (exclusive)."
        )
    return start, stop


def _names(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str | Path):
        return read_classes(str(given)).names
    if not all(isinstance(name, str) for name in given):
        raise UserError(f"classes: {given}: give a list of names, or the file they are in.")
    return tuple(given)
