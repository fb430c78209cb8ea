"""Pictures with one or several captions each, to retrieve one by the other."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from cleanclip_jax.data import paths
from cleanclip_jax.data.listing import expand
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.table.table import Table
from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.keys import REQUIRED, table, take, text
from cleanclip_jax.record import Record, fingerprint_of
from cleanclip_jax.shapes import parse_json
from cleanclip_jax.views.decode import BadRecord

_COCO = {"images": [{"id": int | str, "file_name": str}]}
_COCO |= {"annotations": [{"image_id": int | str, "caption": str}]}
_SENTENCE = {"raw": str}
_KARPATHY = {"split": str, "filename": str, "filepath?": str | None, "sentences": [_SENTENCE]}
_SHAPES = (_COCO, {"images": [_KARPATHY]})
FILE_KINDS = ("csv", "tsv", "json")
FILE_KEYS = {
    "kind": text(REQUIRED),
    "path": text(REQUIRED),
    **{key: text(None) for key in ("root", "image", "caption", "split")},
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
    """Pictures that a file of captions names; pickles as that file's path, and is read again."""

    class_names: tuple[str, ...] | None = None

    def __init__(self, options: Mapping[str, Any], fingerprint: str | None = None):
        self._options = dict(options)
        self._file = paths.local(options["path"])
        listing = _listing(self._options)
        self._pictures, self.captions = list(listing), list(listing.values())
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
        captions = source.captions
    elif kind == "parquet" and (lists := _caption_lists(options)) is not None:
        source, captions = lists
    else:
        source = open_source(options)
        captions = [[source.caption(index)] for index in range(len(source))]
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
    """A file's pictures by path, each once, and the captions of each."""
    path = paths.local(options["path"])
    pictures: dict[str, list[str]] = {}
    for picture, captions in _json(path, options) if options["kind"] == "json" else _rows(options):
        if not all(isinstance(text, str) for text in (picture, *captions)):
            raise UserError(f"{path}: picture {picture!r}: its name and captions are to be text")
        pictures.setdefault(picture, []).extend(captions)
    if not pictures:
        raise UserError(f"{path}: there is no picture in it, or none of the split")
    return pictures


def _rows(options: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    named = {k: options[k] for k in ("kind", "path", "image", "caption", "where") if options.get(k)}
    table = cast(Table, open_source(named))
    for index, path in enumerate(table.values("path")):
        # Without a path it is a picture that can't be read, and counted as such.
        yield path or "", [table.caption(index)]


def _json(path: str, options: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    try:
        todo = "it is neither COCO's captions nor Karpathy's"
        content = parse_json(path, paths.read_bytes(path), _SHAPES, todo)
        if "annotations" in content:
            names = {image["id"]: image["file_name"] for image in content["images"]}
            yield from ((name, []) for name in names.values())
            for note in content["annotations"]:
                yield names[note["image_id"]], [note["caption"]]
            return
        split = options.get("split") or "test"
        for image in content["images"]:
            if image["split"] == split:
                sentences = [sentence["raw"] for sentence in image["sentences"]]
                yield "/".join(filter(None, (image.get("filepath"), image["filename"]))), sentences
    except OSError as error:
        raise UserError(f"{path}: can't be read: {reason(error)}") from None
    except KeyError as error:
        raise UserError(f"{path}: a caption is of picture {error}, which it doesn't name") from None


def _caption_lists(options: Mapping[str, Any]) -> tuple[Source, list[list[str]]] | None:
    """A parquet source and its rows' lists of captions; None where they are single captions."""
    column = options.get("caption", "caption")
    columns = []
    try:
        for file in expand(options.get("path", ""), ".parquet"):
            with paths.open_binary(file) as stream, pq.ParquetFile(stream) as parquet:
                if not pa.types.is_list(parquet.schema_arrow.field(column).type):
                    return None
                columns.append(parquet.read(columns=[column])[column])
    except (OSError, KeyError, pa.ArrowException):
        return None  # the source says it better
    source = open_source({**options, "caption": None})
    if not isinstance(source, Table):
        raise UserError("config.evaluation.retrieval: keep and skip take no lists of captions")
    rows = zip(source.values("file"), source.values("row"), strict=True)
    return source, [columns[file][row - 1].as_py() or [] for file, row in rows]
