"""Labelled pictures: a folder for each class, or in the form that the original has them."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanclip_jax.data.listing import files_below
from cleanclip_jax.data.paths import join, local, parent, read_bytes
from cleanclip_jax.data.table.columns import batch_of
from cleanclip_jax.data.table.table import Table, make_table, open_csv
from cleanclip_jax.errors import UserError, printable, refusing, unknown
from cleanclip_jax.shapes import load_json

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
BATCH_ROWS = 8192


def open_folder(
    path: str | Path,
    names: str | Path | Mapping[str, Any] | None = None,
    where: Mapping[str, str | Sequence[str]] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
) -> Table:
    """The pictures below a folder, of which each folder in it is a class.

    Classes are ordered by their folders' names. The fingerprint is of the pictures' names and
    sizes. Files that are no pictures by their ending are left out, and counted in the log.

    Args:
      names: the folders' classes, where the folders' names are none ("n07753592" → "banana"), or a
        JSON file that says so. It may name more folders than there are.
      where: {"class": name or names}: only these classes' pictures.
      rows, templates: as in table.open_table.
    """
    folder = local(path)
    named = None if names is None else _read_names(names)
    digest, classes, others = hashlib.sha256(), [], 0
    with refusing(folder, "check the data's path", OSError):
        for file, size in files_below(folder):
            if not _is_picture(file):
                others += 1
                continue
            digest.update(f"{file}\0{size}\n".encode(errors="surrogateescape"))
            if (name := file.partition("/")[0]) not in classes[-1:]:
                classes.append(name)
    if not classes:
        raise UserError(f"{folder}: no folder with pictures in it; each should be a class.")
    if others:
        log.warning("%s: left out %d files that are no picture of a class", folder, others)
    named = {name: printable(name) for name in classes} if named is None else named
    for name in classes:
        if name not in named:
            raise unknown(f"{folder}: a folder without a class in names", name, named)
    reader = FolderReader(tuple((name, named[name]) for name in classes))
    # By number: two classes may have one name, as ImageNet's two called missile.
    columns, chosen = ("image", None, "label"), (where, rows, templates)
    texts, content = [name for _, name in reader.classes], digest.hexdigest()
    return make_table([folder], reader, columns, chosen, texts, folder, content)


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
) -> Table:
    """A folder of pictures, labels.csv and the names of its classes.

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
    where_from: dict[str, Any] = {"root": root, "where": where, "rows": rows}
    where_from |= {"templates": templates, "encoding": encoding}
    return open_csv(file, image, None, label, classes, **where_from)


@dataclass(frozen=True)
class FolderReader:
    """Reads a folder's pictures in the order of their names.

    Attributes:
      classes: each class's folder and name.
    """

    classes: tuple[tuple[str, str], ...]
    kind: str = "folder"

    def columns(self, file: str) -> list[str]:
        return ["image", "class", "label"]

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        names = dict(self.classes)
        labels = {name: str(label) for label, name in enumerate(names)}
        pictures = (name for name, _ in files_below(file) if _is_picture(name))
        while paths := list(islice(pictures, BATCH_ROWS)):
            folders = [path.partition("/")[0] for path in paths]
            values: dict[str, list[str | None]] = {
                "image": [*paths],
                "class": [names[folder] for folder in folders],
                "label": [labels[folder] for folder in folders],
            }
            chosen = {name: values[name] for name in columns}
            bad: list[str | None] = [None] * len(paths)
            yield batch_of(chosen, bad, [*map(printable, paths)], "a name that is not utf-8")


def _is_picture(path: str) -> bool:
    return "/" in path and path.lower().endswith(ENDINGS)


def _read_names(given: str | Path | Mapping[str, Any]) -> dict[str, str]:
    names: Any = given
    if isinstance(given, str | Path):
        with refusing(f"{given}: no names of classes", "check the file", OSError, ValueError):
            names = load_json(read_bytes(local(given)))
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f'names: {given}: give {{"folder": "class", ...}}.')
    return dict(names)
