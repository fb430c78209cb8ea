"""Pairs from CSV, TSV and parquet files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from cleanclip_jax.data.convert import Selection, arrow_copy
from cleanclip_jax.data.records import Record, fingerprint_of, template_caption
from cleanclip_jax.errors import UserError
from cleanclip_jax.images.decode import BadRecord
from cleanclip_jax.text.prompts import templates as find_templates


def open_table(
    kind: str,
    path: str | Path,
    image: str = "image",
    caption: str | None = "caption",
    class_name: str | None = None,
    root: str | Path | None = None,
    where: Mapping[str, Any] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
) -> "Table":
    """A file of pairs.

    Args:
      kind: 'csv', 'tsv' or 'parquet'.
      path: the file.
      image: column of image paths, of image files' bytes, or of Hugging Face's {bytes, path}.
      caption: column of captions; None for a set that is only measured on.
      class_name: column of class names; classes are those of the whole file, so that the
        splits of one file agree.
      root: folder that relative image paths start from; the file's own if None.
      where: column → value or list of values: only rows that hold them.
      rows: of the rows left by `where`, the first so many, or (first, last exclusive).
      templates: names or texts of prompts; captions are then made from them and the class.

    Raises:
      UserError: on a missing or broken file, a missing column, or when no row is left.
    """
    file = Path(path).expanduser()
    if templates is not None:
        if class_name is None:
            raise UserError(f"{file}: templates need class_name, the column of class names.")
        caption = None
    selection = Selection(image, caption, class_name, dict(where or {}), _range(file, rows))
    copy, fingerprint = arrow_copy(file, kind, selection)
    texts = None if templates is None else find_templates(templates)
    return Table(
        copy=copy,
        name=file.name,
        root=Path(root).expanduser() if root else file.parent,
        templates=texts,
        fingerprint=fingerprint_of(table=fingerprint, templates=texts),
    )


class Table:
    """A memory-mapped table of pairs; pickles as the path of its Arrow file (data.convert)."""

    def __init__(
        self,
        copy: Path,
        name: str,
        root: Path,
        templates: tuple[str, ...] | None,
        fingerprint: str,
    ):
        self._arguments = (copy, name, root, templates, fingerprint)
        self._name, self._root, self._templates = name, root, templates
        self.fingerprint = fingerprint
        table = pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
        names = json.loads(table.schema.metadata[b"class_names"])
        self.class_names: tuple[str, ...] | None = None if names is None else tuple(names)
        self._rows = len(table)
        self._images, self._paths, self._captions, self._labels, self._numbers = (
            table.column(column) for column in ("image", "path", "caption", "label", "row")
        )
        if templates is not None:
            self._check_every_class()

    def __reduce__(self):
        return Table, self._arguments

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Record:
        return Record(
            self._image(index), self.caption(index), self._labels[index].as_py(), self.where(index)
        )

    def caption(self, index: int) -> str:
        if self._templates is None:
            return self._captions[index].as_py() or ""
        assert self.class_names is not None
        name = self.class_names[self._labels[index].as_py()]
        return template_caption(self._numbers[index].as_py(), self._templates, name)

    def where(self, index: int) -> str:
        return f"{self._name} row {self._numbers[index].as_py()}"

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._labels.to_numpy()

    def _image(self, index: int) -> bytes:
        data = self._images[index].as_py()
        if data is not None:
            return data
        path = self._paths[index].as_py()
        if not path:
            raise BadRecord(f"{self.where(index)}: no image; fill it in or remove the row.")
        try:
            return (self._root / path).read_bytes()
        except OSError as error:
            raise BadRecord(
                f"{self.where(index)}: image {self._root / path}: {error.strerror or error}."
            ) from error

    def _check_every_class(self) -> None:
        without = np.flatnonzero(self.labels() < 0)
        if len(without):
            raise UserError(
                f"{self.where(int(without[0]))}: no class to make a caption of, as in "
                f"{len(without)} of {len(self)} rows; choose rows that have one with where."
            )


def _range(file: Path, rows: int | Sequence[int | None] | None) -> tuple[int, int | None]:
    start, stop = (0, rows) if rows is None or isinstance(rows, int) else tuple(rows)
    if not isinstance(start, int) or start < 0 or (stop is not None and stop <= start):
        raise UserError(
            f"{file}: rows={rows!r}: give a number of rows, or the first and the last (exclusive)."
        )
    return start, stop
