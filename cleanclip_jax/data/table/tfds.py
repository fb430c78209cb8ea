"""Pairs from TensorFlow Datasets prepared as ArrayRecord, without TensorFlow."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cleanclip_jax.data.paths import digests, local
from cleanclip_jax.data.table.columns import batch_of
from cleanclip_jax.data.table.table import Table, make_table
from cleanclip_jax.errors import UserError, reason, refusing, unknown
from cleanclip_jax.record import fingerprint_of
from cleanclip_jax.views.decode import BadRecord

BATCH_ROWS = 1024
INFO = "dataset_info.json"  # what a prepared folder has


def open_tfds(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    image: str = "image",
    caption: str | None = None,
    class_name: str | None = None,
    where: Mapping[str, Any] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
) -> "TfdsTable":
    """A dataset that TFDS has prepared with file_format='array_record'.

    Args:
      name: a dataset ("coco_captions:1.1.0"), or the folder that it was prepared in.
      split: also part of one, as TFDS writes it: "train[:10%]".
      data_dir: where TFDS keeps its datasets; its default if None.
      image: the feature of pictures; their files' bytes are taken as they are.
      caption, class_name: features, "captions/text" for one within another. Of several captions
        training draws one an epoch. A class's names are the feature's, if it has them.
      where: feature → value or list of values, compared as text; a class is its name.
      rows, templates: as in table.open_table.
    """
    folder = _folder(name, data_dir)
    info = _builder(folder).info
    features = _features(info.features)
    for feature in (image, caption, class_name):
        if feature is not None and feature not in features:
            raise unknown(f"{folder}: feature", feature, features)
    with refusing(f"{folder}: split {split!r}", "check it", Exception):  # TFDS has many kinds
        files = info.splits[split].filepaths
        content = digests([str(path) for path in files])
        _records(folder, split)
    classes = None if class_name is None else getattr(features[class_name], "names", None)
    columns, chosen = (None, caption, class_name), (where, rows, templates)
    listed = caption is not None and templates is None and _is_sequence(info.features, caption)
    reader = TfdsReader(split, caption if listed else None)
    table = make_table([folder], reader, columns, chosen, classes, content=content)
    return TfdsTable(table, split, image)


class TfdsTable(Table):
    """A split's pictures, read by TFDS, and all else from a table in the cache."""

    def __init__(self, table: Table, split: str, image: str):
        super().__init__(*table.args)
        self.args = (table, split, image)
        self._folder, self._split, self._feature = table.args[1][0], split, image
        self.fingerprint = fingerprint_of(table=table.fingerprint, image=image)
        self._pictures: Any = None

    def where(self, index: int) -> str:
        name = "/".join(self._folder.split("/")[-2:])
        return f"{name} {self._split} row {self.row(index)}"

    def _image(self, index: int) -> bytes:
        if self._pictures is None:
            self._pictures = _records(self._folder, self._split)
        try:
            return _within(self._pictures[self.row(index) - 1], self._feature)
        except Exception as error:  # of the shard's reader, or of TFDS's parser
            raise BadRecord(f"{self.where(index)}: {reason(error)}.") from error


@dataclass(frozen=True)
class TfdsReader:
    """Reads a prepared dataset's features but its pictures; values come as text.

    Attributes:
      lists: the feature that is read as lists of texts; of other sequences the first.
    """

    split: str
    lists: str | None = None
    kind: str = "TFDS"

    def columns(self, file: str) -> list[str]:
        return list(_features(_builder(file).info.features))

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        features = _features(_builder(file).info.features)
        records = _records(file, self.split)
        for start in range(0, len(records), BATCH_ROWS):
            values: list[list[Any]] = []
            bad: list[str | None] = []
            for i in range(start, min(start + BATCH_ROWS, len(records))):
                try:
                    record = records[i]
                    read = {c: _within(record, c) for c in columns}
                    row: dict[str, Any] = {c: _text(features[c], read[c]) for c in read}
                    if self.lists in read:
                        several = read[self.lists]
                        row[self.lists] = [_text(features[self.lists], text) for text in several]
                    values.append([*row.values()])
                    bad.append(None)
                except Exception as error:  # of the shard's reader, of TFDS's parser, of text
                    values.append([None] * len(columns))
                    bad.append(reason(error))
            arrays = {name: [row[k] for row in values] for k, name in enumerate(columns)}
            yield batch_of(arrays, bad, lists=self.lists)


def _library() -> Any:
    # Deferred: it takes a second to import, and other sources do not need it.
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(f"tfds: pip install tensorflow-datasets ({reason(error)}).") from error
    return tensorflow_datasets


def _folder(name: str, data_dir: str | Path | None) -> str:
    """The folder that a dataset was prepared in."""
    if os.path.isfile(os.path.join(local(name), INFO)):
        return local(name)
    try:
        given = None if data_dir is None else local(data_dir)
        folder = str(_library().builder(name, data_dir=given).data_path)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"tfds: {name}: {lines[0]}") from error
    if not os.path.isfile(os.path.join(folder, INFO)):
        raise UserError(
            f"tfds: {name} is not prepared in {folder}; prepare it there with "
            "tfds.builder(..., file_format='array_record').download_and_prepare()."
        )
    return folder


@cache
def _builder(folder: str) -> Any:
    with refusing(f"{folder}: not a dataset of TFDS", "check the path", Exception):
        return _library().builder_from_directory(folder)


def _records(folder: str, split: str) -> Any:
    library, builder = _library(), _builder(folder)
    features = builder.info.features.items()
    pictures = [name for name, kind in features if isinstance(kind, library.features.Image)]
    skip = dict.fromkeys(pictures, library.decode.SkipDecoding())
    return builder.as_data_source(split, decoders=skip)


def _features(features: Any, above: str = "") -> dict[str, Any]:
    """Features by name, those within others as "captions/text"."""
    by_name: dict[str, Any] = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # what a sequence is of
        if hasattr(inner, "items"):
            by_name |= _features(inner, f"{above}{name}/")
        else:
            by_name[above + name] = feature
    return by_name


def _is_sequence(features: Any, name: str) -> bool:
    """Whether a feature is, or is within, a sequence."""
    for part in name.split("/"):
        feature = features[part]
        if hasattr(feature, "feature"):
            return True
        features = feature
    return False


def _within(record: Any, name: str) -> Any:
    for part in name.split("/"):
        record = record[part]
    return record


def _text(feature: Any, value: Any) -> str | None:
    while isinstance(value, list | np.ndarray):
        if not len(value):
            return None
        value = value[0]
    if isinstance(value, bytes):
        return value.decode()
    names = getattr(feature, "names", None)
    if names is not None:
        return names[value] if value >= 0 else None
    return str(value)
