"""Pictures with one or several captions each, to retrieve one by the other."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from cleanclip_jax.data import paths
from cleanclip_jax.data.record import Record, fingerprint_of
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.keys import REQUIRED, table, take, text
from cleanclip_jax.views.decode import BadRecord

DELIMITERS = {"csv": ",", "tsv": "\t"}
FILE_KEYS = {
    "kind": text(REQUIRED),
    "path": text(REQUIRED),
    **{key: text(None) for key in ("root", "image", "caption", "split")},
    "where": table(None),
}


@dataclass(frozen=True)
class Captioned:
    """Pictures, and captions of which each belongs to one.

    Attributes:
      captions: none of them empty; a picture may have none.
      owner: the record that each caption belongs to, ascending.
      empty: captions that were left out.
    """

    source: Source
    captions: list[str]
    owner: Int64[np.ndarray, " m"]
    empty: int

    def of(self, index: Int64[np.ndarray, " k"]) -> tuple[list[str], Int64[np.ndarray, " c"]]:
        """The captions of these records, and for each its record's place in `index`."""
        place = np.full(len(self.source), -1)
        place[index] = np.arange(len(index))
        kept = np.flatnonzero(place[self.owner] >= 0)
        return [self.captions[i] for i in kept], place[self.owner[kept]]


class Listing(NamedTuple):
    """A file's pictures by path, each once, and the captions of each."""

    pictures: list[str]
    captions: list[list[str]]


class PictureFiles:
    """Pictures that a file of captions names; pickles as that file's path, and is read again."""

    class_names: tuple[str, ...] | None = None

    def __init__(self, options: Mapping[str, Any], fingerprint: str | None = None):
        self._options = dict(options)
        self._file = paths.local(options["path"])
        self._pictures = _listing(self._options).pictures
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
            raise BadRecord(f"{self.where(index)}: {path}: {paths.reason(error)}.") from error

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
    """Opens `config.evaluation.retrieval`.

    Args:
      config: `kind` and its keys.
        csv, tsv: `path`, columns `image` and `caption`, `root` of the images' paths, `where`
          (column → value); rows with the same image are one picture with several captions.
        json: `path`, `root`; COCO's captions, or Karpathy's files of COCO and Flickr30k, of which
          `split` (test) is taken.
        parquet with a column of lists of captions: as the source of that kind.
        Any other source: each record is a pair.

    Raises:
      UserError: unknown keys, a file that can't be read, or no captions.
    """
    options = dict(config)
    kind = options.get("kind")
    if kind in DELIMITERS or kind == "json":
        filled = take(f"config.evaluation.retrieval ({kind})", options, FILE_KEYS)
        options = {key: value for key, value in filled.items() if value is not None}
        source: Source = PictureFiles(options)
        captions = _listing(options).captions
    elif kind == "parquet" and (lists := _caption_lists(options)) is not None:
        source, captions = open_source({**options, "caption": None}), lists
        if len(source) != len(captions):
            raise UserError(
                f"{options['path']}: {len(source)} pictures and {len(captions)} lists of captions"
            )
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
    """A local file's size; remote stores are not asked for each."""
    try:
        return None if paths.is_remote(path) else os.path.getsize(path)
    except OSError:
        return None


def _listing(options: Mapping[str, Any]) -> Listing:
    path = paths.local(options["path"])
    try:
        with paths.open_binary(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, ValueError) else paths.reason(error)
        raise UserError(f"{path}: can't be read: {reason}") from None
    pairs = (
        _rows(path, text, options) if options["kind"] in DELIMITERS else _json(path, text, options)
    )
    found: dict[str, list[str]] = {}
    for picture, captions in pairs:
        found.setdefault(picture, []).extend(captions)
    if not found:
        raise UserError(f"{path}: no picture in it is asked for")
    return Listing(list(found), list(found.values()))


def _rows(path: str, text: str, options: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=DELIMITERS[options["kind"]])
    image, caption = options.get("image") or "image", options.get("caption") or "caption"
    where = {key: str(value) for key, value in (options.get("where") or {}).items()}
    columns = reader.fieldnames or []
    for column in (image, caption, *where):
        if column not in columns:
            raise unknown(f"{path}: column", column, columns)
    for row in reader:
        if all(row[key] == value for key, value in where.items()):
            # Without a path it is a picture that can't be read, and counted as such.
            yield row[image] or "", [row[caption] or ""]


def _json(path: str, text: str, options: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    try:
        found = json.loads(text)
        if "annotations" in found:
            names = {image["id"]: image["file_name"] for image in found["images"]}
            yield from ((name, []) for name in names.values())
            for note in found["annotations"]:
                yield names[note["image_id"]], [note["caption"]]
            return
        split = options.get("split") or "test"
        for image in found["images"]:
            if image["split"] == split:
                sentences = [sentence["raw"] for sentence in image["sentences"]]
                yield "/".join(filter(None, (image.get("filepath"), image["filename"]))), sentences
    except (ValueError, KeyError, TypeError) as error:
        what = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: neither COCO's captions nor Karpathy's in JSON ({what})"
        ) from None


def _caption_lists(options: Mapping[str, Any]) -> list[list[str]] | None:
    """The lists of captions of the rows that a parquet source takes; None for single captions."""
    column = options.get("caption", "caption")
    where = dict(options.get("where") or {})
    found: list[list[str]] = []
    try:
        for file in paths.expand(options.get("path", ""), ".parquet"):
            with paths.open_binary(file) as stream:
                schema = pq.read_schema(stream)
                if column not in schema.names or not pa.types.is_list(schema.field(column).type):
                    return None
                table = pq.read_table(stream, columns=list(dict.fromkeys([column, *where])))
            chosen = np.ones(len(table), bool)
            for key, value in where.items():
                wanted = set(value) if isinstance(value, list | tuple) else {value}
                chosen &= np.array([item in wanted for item in table[key].to_pylist()], bool)
            found += [list(table[column][int(row)].as_py() or []) for row in np.flatnonzero(chosen)]
    except (OSError, pa.ArrowException):
        return None  # the source says it better
    rows = options.get("rows")
    start, stop = (0, rows) if rows is None or isinstance(rows, int) else tuple(rows)
    return found[start:stop]
