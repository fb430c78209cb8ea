"""Parts of a source: records named by their ids or scores, or those that have a class."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.data.paths import digests, local
from cleanclip_jax.data.scores import keep_lowest, read_columns, write_columns
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import REQUIRED, choice, share, take, text
from cleanclip_jax.record import Record, Source, fingerprint_of

# The keys of a source's `keep`, where it is no file of ids.
KEEP = {
    "scores": text(REQUIRED, "a file of scores, higher for more suspicious"),
    "share": replace(share(1.0, "of the scores, the lowest, that stay", "<"), default=REQUIRED),
    "unscored": choice("drop", "drop | keep", "the records without a score"),
}


class Subset(Source):
    """The records of `source` whose ids are among `ids`; they keep their ids and captions.

    Pickles as the source and a bit a record.

    Args:
      fingerprint: of a part that is itself a dataset, on which attacks are planned; None:
        this is `source` filtered, and an attack on it is the attack on `source`.
    """

    def __init__(
        self, source: Source, ids: Int64[np.ndarray, " m"], fingerprint: str | None = None
    ):
        mask = np.isin(source.ids(), ids)
        if not mask.any():
            raise UserError("data: no record is left: of the ids none is in the data")
        self._arguments = (source, zlib.compress(np.packbits(mask).tobytes()), fingerprint)
        self._source, self._rows = source, np.flatnonzero(mask)
        self.class_names: tuple[str, ...] | None = source.class_names
        digest = hashlib.sha256(self.ids().astype("<i8").tobytes()).hexdigest()
        self.fingerprint = fingerprint or fingerprint_of(part=source.fingerprint, ids=digest)
        self._filters = fingerprint is None

    def __reduce__(self):
        return _unpacked, self._arguments

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._rows[index])]

    def caption(self, index: int) -> str:
        return self._source.caption(int(self._rows[index]))

    def all_captions(self, index: int) -> Sequence[str]:
        return self._source.all_captions(int(self._rows[index]))

    def has_lists(self) -> bool:
        return self._source.has_lists()

    def where(self, index: int) -> str:
        return self._source.where(int(self._rows[index]))

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._source.labels()[self._rows]

    def ids(self) -> Int64[np.ndarray, " n"]:
        return self._source.ids()[self._rows]

    def root(self) -> Source:
        return self._source.root()

    def unfiltered(self) -> Source:
        return self._source.unfiltered() if self._filters else self


def _unpacked(source: Source, packed: bytes, fingerprint: str | None) -> Subset:
    mask = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=len(source))
    return Subset(source, source.ids()[mask.astype(bool)], fingerprint)


def labelled(source: Source) -> Subset:
    """The records that have a class: what supervised training sees.

    Attacks are planned on these alone. Of a filtered source, they are those of the whole, filtered.
    """
    whole = source.unfiltered()
    if not whole.class_names:
        raise UserError(
            "config.data.train has no classes, which a head is trained on: name their column "
            "with config.data.train.class_name"
        )
    ids = whole.ids()[whole.labels() >= 0]
    if not np.isin(ids, source.ids()).any():
        raise UserError("config.data.train: no record has a class")
    part = Subset(whole, ids, fingerprint_of(labelled=whole.fingerprint))
    return part if whole is source else Subset(part, source.ids())


def select(
    source: Source,
    keep: str | Path | Mapping[str, Any] | None,
    skip: str | Path | None,
) -> Source:
    """The records that `keep` names, all if None, but for those that `skip` names.

    Args:
      keep: a file of ids, as `read_ids` takes it; or `KEEP`'s keys, for the lowest scores.
      skip: a file of ids.
    """
    if keep is None and skip is None:
        return source
    if isinstance(keep, Mapping):
        keys = take("config.data.keep", keep, KEEP)
        ids = keep_lowest(source, keys["scores"], keys["share"], keys["unscored"])
    else:
        ids = source.ids() if keep is None else read_ids(keep, source)
    return Subset(source, ids if skip is None else np.setdiff1d(ids, read_ids(skip, source)))


def filter_files(config: Mapping[str, Any], where: str) -> dict[str, str]:
    """The files that a source's config, or that of a mixture's parts, is filtered by, by key.

    Args:
      where: the key of the config.
    """
    files: dict[str, str] = {}
    if config.get("kind") == "mixture":
        for name, part in config["sources"].items():
            files |= filter_files(part, f"{where}.sources.{name}")
    for key in ("keep", "skip"):
        if isinstance(given := config.get(key), Mapping):
            files[f"{where}.{key}.scores"] = str(given["scores"])
        elif given is not None:
            files[f"{where}.{key}"] = str(given)
    return files


def filter_facts(config: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Paths and digests of `filter_files`, by key."""
    files = filter_files(config, where)
    paths = [local(path) for path in files.values()]
    facts = [{"path": p, "digest": d} for p, d in zip(paths, digests(paths), strict=True)]
    return dict(zip(files, facts, strict=True))


def write_ids(path: str | Path, ids: Int64[np.ndarray, " n"], fingerprint: str) -> None:
    """Writes ids of records as parquet, CSV or JSON, by the file's ending (data.scores).

    Args:
      fingerprint: of the whole dataset that has the ids: `source.root().fingerprint`.
    """
    write_columns(path, {"id": np.asarray(ids, np.int64)}, fingerprint)


def read_ids(path: str | Path, source: Source) -> Int64[np.ndarray, " n"]:
    """Ids from a file (data.scores) that was made for `source`'s whole dataset."""
    return read_columns(path, source, ("id",))["id"].to_numpy()
