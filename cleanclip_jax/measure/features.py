"""Image features of a set: computed once a model, set and trigger, then taken from the cache."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float32, Int64
from ml_collections import ConfigDict

from cleanclip_jax import __version__
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream.example import read_picture
from cleanclip_jax.data.stream.pipeline import Batches, EvaluationBatch, evaluation_batches
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Subject
from cleanclip_jax.measure.feature_cache import keep, kept_path, open_kept
from cleanclip_jax.record import Source, fingerprint_of
from cleanclip_jax.views.decode import BadRecord

log = logging.getLogger(__name__)

# Pictures that are read anew to tell whether what is kept still shows them.
SAMPLE = 16


@dataclass(frozen=True)
class Shown:
    """Which pictures of a source are shown to a model, and how.

    Attributes:
      indices: the records.
      trigger: what is put on each, or None.
      geometry: 'crop' or 'squash' (fidelity row 7).
    """

    source: Source
    indices: Int64[np.ndarray, " n"]
    trigger: Trigger | None = None
    geometry: str = "crop"


@dataclass(frozen=True)
class Reading:
    """How pictures are read and features kept: keys of `config.evaluation` and `config.data`.

    Attributes:
      cache: GB of features that the cache may hold; 0 keeps none.
    """

    batch_size: int
    workers: int = 0
    timeout: float = 120.0
    max_bad_share: float = 0.0
    cache: int | float = 0


def reading_of(config: ConfigDict) -> Reading:
    """How a run's pictures are read."""
    asked, data = config.evaluation, config.data
    return Reading(asked.batch_size, asked.workers, data.timeout, data.max_bad_share, asked.cache)


@dataclass(frozen=True)
class Features:
    """Un-normalised image features of the pictures that could be read.

    Attributes:
      index: the record of each row, in the order asked for.
      unreadable: record → what is wrong with it.
    """

    rows: Float32[np.ndarray, "n d"]
    index: Int64[np.ndarray, " n"]
    unreadable: dict[int, str]


def embed(subject: Subject, shown: Shown, reading: Reading) -> Features:
    """Features of the pictures, from the cache where they were computed before.

    Each process computes its part of the pictures; all get the whole.

    Raises:
      UserError: no pictures, too many unreadable, or features that are not finite.
    """
    if not len(shown.indices):
        raise UserError("there is no picture to measure: the set is empty")
    parts = np.array_split(shown.indices, jax.process_count())
    own = replace(shown, indices=parts[jax.process_index()])
    features = _kept_or_made(subject, own, reading)
    if jax.process_count() > 1:
        said = json.dumps(features.unreadable).encode()
        texts = _gathered(np.frombuffer(said + b"\n", np.uint8)).tobytes().splitlines()
        features = Features(
            _gathered(features.rows),
            _gathered(features.index),
            {int(i): text for part in texts for i, text in json.loads(part).items()},
        )
    unreadable = features.unreadable
    allowed = reading.max_bad_share * len(shown.indices)
    if len(unreadable) > allowed or not len(features.rows):
        raise UserError(
            f"{len(unreadable)} of {len(shown.indices)} pictures are unreadable, more than "
            f"config.data.max_bad_share allows; the first: {next(iter(unreadable.values()))}"
        )
    return features


def _kept_or_made(subject: Subject, shown: Shown, reading: Reading) -> Features:
    size, width = subject.model.variant.image_size, subject.model.variant.features
    if not len(shown.indices):  # more processes than pictures
        return Features(np.zeros((0, width), np.float32), shown.indices, {})
    path = None
    if reading.cache:
        sample = shown.indices[np.linspace(0, len(shown.indices) - 1, SAMPLE).astype(int)]
        path = kept_path(
            fingerprint_of(
                program=__version__,
                model=subject.digest,
                source=shown.source.fingerprint,
                pictures=hashlib.sha256(shown.indices.astype("<i8").tobytes()).hexdigest(),
                trigger=None if shown.trigger is None else shown.trigger.config,
                geometry=shown.geometry,
                size=size,
                sample=_digest_of(replace(shown, indices=np.unique(sample)), size, reading),
            )
        )
        found = open_kept(path)
        if found is not None:
            unreadable = {int(i): text for i, text in found[1]["unreadable"].items()}
            if not any(_readable(shown.source, index) for index in unreadable):
                log.info("features of %d pictures from %s", len(found[0]), path)
                index = shown.indices[~np.isin(shown.indices, list(unreadable))]
                return Features(found[0], index, unreadable)
    features = _made(subject, shown, size, reading)
    if path is not None:
        keep(path, features.rows, {"unreadable": features.unreadable}, reading.cache)
    return features


def _made(subject: Subject, shown: Shown, size: int, reading: Reading) -> Features:
    batch_size = subject.rows(reading.batch_size)
    rows = np.zeros((len(shown.indices), subject.model.variant.features), np.float32)
    index, done = [], 0
    with _batches(shown, size, batch_size, reading) as batches:
        for batch in batches:
            count = len(batch["index"])
            rows[done : done + count] = subject.image_features(batch["images"], batch_size)
            index.append(batch["index"])
            done += count
        unreadable = dict(batches.unreadable)
    rows = rows[:done]
    check_finite(rows, "pictures")
    return Features(rows, np.concatenate([*index, np.zeros(0, np.int64)]), unreadable)


def check_finite(rows: Float32[np.ndarray, "n d"], what: str) -> None:
    """Refuses features that hold NaN or infinity.

    Raises:
      UserError: how many of them do.
    """
    bad = int((~np.isfinite(rows)).any(1).sum())
    if bad:
        raise UserError(
            f"the model's features of {bad} of {len(rows)} {what} are not finite: it diverged in "
            "training"
        )


def _digest_of(shown: Shown, size: int, reading: Reading) -> str:
    """A sha256 over the pictures as the model is shown them.

    A source's fingerprint need not cover files that it only names; and another version of the
    geometry or of a trigger shows other pictures.
    """
    found = hashlib.sha256()
    with _batches(shown, size, SAMPLE, replace(reading, workers=0)) as batches:
        for batch in batches:
            found.update(batch["index"].tobytes() + batch["images"].tobytes())
    return found.hexdigest()


def _batches(
    shown: Shown, size: int, batch_size: int, reading: Reading
) -> Batches[EvaluationBatch]:
    return evaluation_batches(
        shown.source,
        image_size=size,
        batch_size=batch_size,
        trigger=shown.trigger,
        indices=shown.indices,
        geometry=shown.geometry,
        workers=reading.workers,
        timeout=reading.timeout,
    )


def _readable(source: Source, index: int) -> bool:
    try:
        read_picture(source, index)
    except BadRecord:
        return False
    return True


def _gathered(rows: np.ndarray) -> np.ndarray:
    """The rows of every process, in the order of the processes."""
    counts = np.asarray(multihost_utils.process_allgather(np.array(len(rows))))
    padded = np.pad(rows, [(0, int(counts.max()) - len(rows)), *[(0, 0)] * (rows.ndim - 1)])
    every = np.asarray(multihost_utils.process_allgather(padded))
    return np.concatenate([part[:count] for part, count in zip(every, counts, strict=True)])


def texts_of(subject: Subject, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
    """Un-normalised text features; computed by every process, kept nowhere.

    Raises:
      UserError: features that are not finite.
    """
    rows = subject.text_features(texts)
    check_finite(rows, "texts")
    return rows
