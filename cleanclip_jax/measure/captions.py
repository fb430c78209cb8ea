"""Pictures with one or several captions each, to retrieve one by the other."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.data import paths
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.table.annotations import open_annotations
from cleanclip_jax.data.table.table import Table
from cleanclip_jax.errors import UserError, reason, refusing
from cleanclip_jax.keys import REQUIRED, of_signature, table, take, text
from cleanclip_jax.record import Record, fingerprint_of
from cleanclip_jax.views.decode import BadRecord

FILE_KINDS = ("csv", "tsv")
FILE_KEYS = {
    "kind": text(REQUIRED),
    "path": text(REQUIRED),
    **{key: text(None) for key in ("root", "image", "caption")},
    "where": table(None),
}


@dataclass(frozen=True)
class Captioned:
    """Pictures, and captions of which each belongs to one."""

    source: Source
    captions: list[str]  # none of them empty; a picture may have none
    owner: Int64[np.ndarray, " m"]  # the record that each caption belongs to, ascending
    empty: int  # captions that were left out

    def of(self, index: Int64[np.ndarray, " k"]) -> tuple[list[str], Int64[np.ndarray, " c"]]:
        """The captions of these records, and for each its record's place in `index`."""
        place = np.full(len(self.source), -1)
        place[index] = np.arange(len(index))
        rows = np.flatnonzero(place[self.owner] >= 0)
        return [self.captions[i] for i in rows], place[self.owner[rows]]


class PictureFiles(Source):
    """Pictures that a table of captions names, each once; pickles as that file's path."""

    class_names: tuple[str, ...] | None = None

    def __init__(self, options: Mapping[str, Any], fingerprint: str | None = None):
        self._options = dict(options)
        self._file = paths.local(options["path"])
        self._listing = _listing(self._options)
        self._pictures = list(self._listing)
        root = options.get("root")
        self._root = paths.local(root) if root else paths.parent(self._file)
        self.fingerprint = fingerprint or self._fingerprint()

    def __reduce__(self):
        return PictureFiles, (self._options, self.fingerprint)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Record:
        path = paths.join(self._root, self._pictures[index])
        try:
            return Record(paths.read_bytes(path), "", -1, self.where(index))
        except OSError as error:
            raise BadRecord(f"{self.where(index)}: {path}: {reason(error)}.") from error

    def caption(self, index: int) -> str:
        return ""

    def all_captions(self, index: int) -> Sequence[str]:
        return self._listing[self._pictures[index]]

    def where(self, index: int) -> str:
        return f"{os.path.basename(self._file)} picture {self._pictures[index]}"

    def labels(self) -> Int64[np.ndarray, " n"]:
        return np.full(len(self), -1)

    def _fingerprint(self) -> str:
        sizes = [_size(paths.join(self._root, name)) for name in self._pictures]
        return fingerprint_of(pictures=self._pictures, sizes=sizes)


def open_captioned(config: Mapping[str, Any]) -> Captioned:
    """Opens `config.evaluation.retrieval`, whose kinds and keys docs/metrics.md lists."""
    options = dict(config)
    kind = options.get("kind")
    if kind in FILE_KINDS:
        filled = take(f"config.evaluation.retrieval ({kind})", options, FILE_KEYS)
        options = {key: value for key, value in filled.items() if value is not None}
        source: Source = PictureFiles(options)
    elif kind == "json":
        where = "config.evaluation.retrieval (json)"
        open_json = partial(open_annotations, "test")
        keys = {key: value for key, value in options.items() if key != "kind"}
        with refusing(where, "check the data's path", OSError):
            source = open_json(**take(where, keys, of_signature(open_json)))
    else:
        source = open_source(options)
    captions = [source.all_captions(index) for index in range(len(source))]
    flat = [
        (index, caption)
        for index, several in enumerate(captions)
        for caption in several
        if caption and caption.strip()
    ]
    if not flat:
        raise UserError("config.evaluation.retrieval: no picture has a caption")
    owner = np.array([index for index, _ in flat])
    empty = sum(map(len, captions)) - len(flat)
    return Captioned(source, [text for _, text in flat], owner, empty)


def _size(path: str) -> int | None:
    """A local file's size; a remote one's is not looked up."""
    try:
        return None if paths.is_remote(path) else os.path.getsize(path)
    except (OSError, ValueError):  # ValueError: it is no path, by a NUL or half a character
        return None


def _listing(options: Mapping[str, Any]) -> dict[str, list[str]]:
    """A table's pictures by path, each once, and the captions of each."""
    pictures: dict[str, list[str]] = {}
    named = {k: options[k] for k in ("kind", "path", "image", "caption", "where") if options.get(k)}
    table = cast(Table, open_source(named))
    for index, path in enumerate(table.values("path")):
        # Without a path it is a picture that can't be read, and counted as such.
        pictures.setdefault(path or "", []).append(table.caption(index))
    return pictures
