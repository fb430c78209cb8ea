"""Files that say something of a dataset's records by their ids: which ones, or a score of each.

One format for what detectors and defences hand on: a parquet file or CSV with a column `id`, for
scores a column `score` (higher: more suspicious; NaN or empty: the record couldn't be scored), and
the dataset's fingerprint, in a column `fingerprint` or (parquet) in the metadata; or JSON,
{"fingerprint": ..., "ids": [...], "scores": [...]}. Other columns may be there.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64, Real

from cleanclip_jax.data.paths import local, read_bytes
from cleanclip_jax.errors import UserError, refusing
from cleanclip_jax.files import write_whole
from cleanclip_jax.record import Source
from cleanclip_jax.shapes import load_json

log = logging.getLogger(__name__)

_ENDINGS = (".parquet", ".csv", ".json")


def write_scores(
    path: str | Path,
    ids: Int64[np.ndarray, " n"],
    scores: Real[np.ndarray, " n"],
    fingerprint: str,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes a score for each record, by the file's ending: see `read_scores`.

    Args:
      scores: higher is more suspicious; NaN where there is none.
      fingerprint: of the whole dataset that has the ids: `source.root().fingerprint`.
      about: what made them; stands in a parquet file's metadata.
    """
    columns = {"id": np.asarray(ids, np.int64), "score": np.asarray(scores, np.float64)}
    _check_scores(str(path), **columns)
    write_columns(path, columns, fingerprint, about or {})


def read_scores(path: str | Path, source: Source) -> Float64[np.ndarray, " n"]:
    """The score of each record of `source`, from a file made for its whole dataset.

    NaN where it has none: the file says NaN or nothing, or does not name it.
    """
    table, where = read_columns(path, source, ("id", "score")), str(local(path))
    ids, kind = table["id"].to_numpy(), table["score"].type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise UserError(f"{where}: its scores are {kind}: give numbers, higher for more suspicious")
    scores = np.asarray(table["score"].to_numpy(zero_copy_only=False), np.float64)
    _check_scores(where, ids, scores)
    order = np.argsort(ids)
    of_all = np.full(len(source.root()), np.nan)
    of_all[ids[order]] = scores[order]
    return of_all[source.ids()]


def lowest(scores: Float64[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"]:
    """Marks the ⌊share · N⌋ lowest of the N scores that there are; the first of equal ones.

    NaN is no score and never marked. The highest are the lowest of -scores.

    Args:
      share: taken as it is written: 0.29 of 100 are 29.
    """
    count = int(Fraction(repr(float(share))) * int(np.isfinite(scores).sum()))
    marked = np.zeros(len(scores), bool)
    marked[np.argsort(scores, kind="stable")[:count]] = True  # NaN comes last
    return marked


def keep_lowest(
    source: Source, path: str | Path, share: float, unscored: str
) -> Int64[np.ndarray, " m"]:
    """The ids of the records with the lowest scores; logs how many stay and go.

    Args:
      share: of the records that have a score.
      unscored: "drop" or "keep" those that have none.
    """
    scores = read_scores(path, source)
    missing, stay = np.isnan(scores), lowest(scores, share)
    if missing.all():
        raise UserError(f"{path}: none of the {len(scores)} records has a score")
    log.info(
        "%s: of %d records with a score, the %d lowest are left and %d dropped; %d without a score "
        "are %s",
        *(path, (~missing).sum(), stay.sum(), (~missing & ~stay).sum(), missing.sum()),
        "left" if unscored == "keep" else "dropped",
    )
    return source.ids()[stay | missing if unscored == "keep" else stay]


def write_columns(
    path: str | Path,
    columns: Mapping[str, np.ndarray],
    fingerprint: str,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes a column `id` and others as parquet, CSV or JSON, by the file's ending."""
    path, stream = Path(path), io.BytesIO()
    match path.suffix:
        case ".json":
            lists = {f"{name}s": column.tolist() for name, column in columns.items()}
            stream.write(json.dumps({"fingerprint": fingerprint, **lists}).encode())
        case ".csv":
            whole = {**columns, "fingerprint": [fingerprint] * len(columns["id"])}
            pa_csv.write_csv(pa.table(whole), stream)
        case ".parquet":
            metadata = {**(about or {}), "fingerprint": fingerprint}
            pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), stream)
        case _:
            raise UserError(f"{path}: {[*columns][-1]}s are written to {', '.join(_ENDINGS)}")
    write_whole(path, stream.getvalue())


def read_columns(path: str | Path, source: Source, columns: Sequence[str]) -> pa.Table:
    """Columns of a file that was made for `source`'s whole dataset; its ids are checked.

    Args:
      columns: `id` and others.
    """
    path = local(path)
    with refusing(path, "check the path", OSError):
        data = read_bytes(path)
    # A missing column is a KeyError.
    broken = (pa.ArrowException, ArithmeticError, ValueError, KeyError, TypeError)
    form = (
        f"it has {' and '.join(f'a column {name!r}' for name in columns)} and the dataset's "
        "'fingerprint' (docs/data.md)"
    )
    with refusing(f"{path}: no file of {columns[-1]}s", form, *broken):
        if path.endswith(".json"):
            content: Any = load_json(data)
            table = pa.table({name: pa.array(content[f"{name}s"]) for name in columns})
            fingerprints = {content["fingerprint"]}
        elif path.endswith((".csv", ".parquet")):
            reader = pq.read_table if path.endswith(".parquet") else pa_csv.read_csv
            whole = reader(io.BytesIO(data))
            table, metadata = whole.select(list(columns)), whole.schema.metadata or {}
            fingerprints = (
                {metadata[b"fingerprint"].decode()}
                if b"fingerprint" in metadata
                else {*whole["fingerprint"].unique().to_pylist()}
            )
        else:
            raise UserError(f"{path}: {columns[-1]}s are read from {', '.join(_ENDINGS)}")
    root, ids = source.root(), table["id"]
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
    return table.set_column(0, "id", pa.array(numbers))


def _check_scores(where: str, id: np.ndarray, score: np.ndarray) -> None:
    if (infinite := np.isinf(score)).any():
        raise UserError(
            f"{where}: the score of id {id[infinite][0]} is infinite: give a number, or NaN where "
            "there is none"
        )
    numbers, counts = np.unique(id, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{where}: id {numbers[counts > 1][0]} has several scores: give it one")
