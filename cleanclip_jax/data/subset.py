"""Parts of a source: records named by their ids, or those that have a class."""

import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Int64

from cleanclip_jax.data.paths import local, read_bytes
from cleanclip_jax.errors import UserError, refusing
from cleanclip_jax.files import write_whole
from cleanclip_jax.parquet import read_table
from cleanclip_jax.record import Record, Source, fingerprint_of
from cleanclip_jax.shapes import load_json

_ENDINGS = (".parquet", ".csv", ".json")


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


def select(source: Source, keep: str | Path | None, skip: str | Path | None) -> Source:
    """The records that `keep` names, all if None, but for those that `skip` names.

    Args:
      keep, skip: files of ids, as `read_ids` takes them.
    """
    if keep is None and skip is None:
        return source
    ids = source.ids() if keep is None else read_ids(keep, source)
    return Subset(source, ids if skip is None else np.setdiff1d(ids, read_ids(skip, source)))


def write_ids(path: str | Path, ids: Int64[np.ndarray, " n"], fingerprint: str) -> None:
    """Writes ids of records as parquet, CSV or JSON, by the file's ending: see `read_ids`.

    Args:
      fingerprint: of the whole dataset that has the ids: `source.root().fingerprint`.
    """
    path, stream = Path(path), io.BytesIO()
    ids = np.asarray(ids, np.int64)
    match path.suffix:
        case ".json":
            stream.write(json.dumps({"fingerprint": fingerprint, "ids": ids.tolist()}).encode())
        case ".csv":
            columns = {"id": ids, "fingerprint": [fingerprint] * len(ids)}
            pa_csv.write_csv(pa.table(columns), stream)
        case ".parquet":
            table = pa.table({"id": ids}).replace_schema_metadata({"fingerprint": fingerprint})
            pq.write_table(table, stream)
        case _:
            raise UserError(f"{path}: ids are written to {', '.join(_ENDINGS)}")
    write_whole(path, stream.getvalue())


def read_ids(path: str | Path, source: Source) -> Int64[np.ndarray, " n"]:
    """Ids from a file that was made for `source`'s whole dataset.

    A parquet file or CSV with a column `id` and the dataset's fingerprint, in a column
    `fingerprint` or (parquet) in the metadata; or JSON, {"fingerprint": ..., "ids": [...]}. Other
    columns, such as scores, may be there.
    """
    path = local(path)
    with refusing(path, "check the path", OSError):
        data = read_bytes(path)
    # A missing column is a KeyError.
    broken = (pa.ArrowException, ArithmeticError, ValueError, KeyError, TypeError)
    form = "it has a column 'id' and the dataset's 'fingerprint' (docs/data.md)"
    with refusing(f"{path}: no file of ids", form, *broken):
        if path.endswith(".json"):
            content = load_json(data)
            ids, fingerprints = pa.array(content["ids"]), {content["fingerprint"]}
        elif path.endswith((".csv", ".parquet")):
            reader = read_table if path.endswith(".parquet") else pa_csv.read_csv
            table = reader(io.BytesIO(data))
            ids, metadata = table["id"], table.schema.metadata or {}
            fingerprints = (
                {metadata[b"fingerprint"].decode()}
                if b"fingerprint" in metadata
                else {*table["fingerprint"].unique().to_pylist()}
            )
        else:
            raise UserError(f"{path}: ids are read from {', '.join(_ENDINGS)}")
    root = source.root()
    if fingerprints and fingerprints != {root.fingerprint}:
        others = ", ".join(str(other)[:12] for other in sorted(fingerprints, key=str))
        raise UserError(
            f"{path}: its ids are of the dataset {others}, and this is {root.fingerprint[:12]}: "
            "make the file for this dataset"
        )
    if len(ids) and (not pa.types.is_integer(ids.type) or ids.null_count):
        raise UserError(f"{path}: its ids are {ids.type} or missing: give whole numbers")
    numbers = np.asarray(ids.to_numpy(zero_copy_only=False), np.int64)
    outside = numbers[(numbers < 0) | (numbers >= len(root))]
    if len(outside):
        raise UserError(
            f"{path}: id {outside[0]} is outside the dataset, whose ids are 0 to {len(root) - 1}"
        )
    return numbers
