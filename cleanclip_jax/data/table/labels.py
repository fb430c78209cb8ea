"""Labelled pictures in the form that the original has them: labels.csv and classes.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleanclip_jax.data.paths import join, local, parent
from cleanclip_jax.data.table.table import Table, open_csv


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
    columns: dict[str, Any] = {"image": image, "caption": None, "class_name": label}
    columns |= {"classes": classes, "root": root, "encoding": encoding}
    return open_csv(file, **columns, where=where, rows=rows, templates=templates)
