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
from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream import pipeline
from cleanclip_jax.data.stream.in_order import PictureBatch, evaluation_batches, read_picture
from cleanclip_jax.data.stream.pipeline import Batches
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.feature_cache import features_path, load_features, save_features
from cleanclip_jax.record import Source, fingerprint_of
from cleanclip_jax.views.decode import BadRecord

log = logging.getLogger(__name__)

# Pictures that are read again to tell whether cached features still show them.
SAMPLE = 16


@dataclass(frozen=True)
class Shown:
    """Which pictures of a source are shown to a model, and how."""

    source: Source
    indices: Int64[np.ndarray, " n"]  # the records
    trigger: Trigger | None = None  # what is put on each
    geometry: str = "crop"  # or squash
    plan: Plan | None = None  # in place of a trigger: as they are trained on, poisoned or clean


@dataclass(frozen=True)
class Reading(pipeline.Reading):
    """How pictures are read and features cached: keys of `config.evaluation` and `config.data`."""

    cache: int | float = 0  # GB of features that the cache may hold; 0: none are cached


def reading_of(config: ConfigDict) -> Reading:
    """How a run's pictures are read."""
    settings, data = config.evaluation, config.data
    streamed = (settings.batch_size, settings.workers, data.timeout, data.max_bad_share)
    return Reading(*streamed, cache=settings.cache)


@dataclass(frozen=True)
class Features:
    """Un-normalised image features of the pictures that could be read."""

    rows: Float32[np.ndarray, "n d"]
    index: Int64[np.ndarray, " n"]  # the record of each row, in the order of `Shown.indices`
    unreadable: dict[int, str]  # record → what is wrong with it


def embed(encoder: Encoder, shown: Shown, reading: Reading, allow_none: bool = False) -> Features:
    """Features of the pictures, from the cache where they were computed before.

    Each process computes its part of the pictures; all get the whole.

    Args:
      allow_none: whether it is no mistake that none of them can be read.
    """
    if not len(shown.indices):
        raise UserError("there is no picture to measure: the set is empty")
    parts = np.array_split(shown.indices, jax.process_count())
    share = replace(shown, indices=parts[jax.process_index()])
    features = _cached_or_computed(encoder, share, reading)
    if jax.process_count() > 1:
        line = json.dumps(features.unreadable).encode() + b"\n"
        texts = rows_of_all(np.frombuffer(line, np.uint8)).tobytes().splitlines()
        features = Features(
            rows_of_all(features.rows),
            rows_of_all(features.index),
            {int(i): text for part in texts for i, text in json.loads(part).items()},
        )
    unreadable = features.unreadable
    allowed = reading.max_bad_share * len(shown.indices)
    if len(unreadable) > allowed or not (len(features.rows) or allow_none):
        raise UserError(
            f"{len(unreadable)} of {len(shown.indices)} pictures are unreadable, more than "
            f"config.data.max_bad_share allows; the first: {next(iter(unreadable.values()))}"
        )
    return features


def _cached_or_computed(encoder: Encoder, shown: Shown, reading: Reading) -> Features:
    size, indices = encoder.model.variant.image_size, shown.indices
    if not len(indices):  # more processes than pictures
        return Features(np.zeros((0, encoder.model.variant.features), np.float32), indices, {})
    if not reading.cache:
        return _computed(encoder, shown, size, reading)
    sample = indices[np.linspace(0, len(indices) - 1, SAMPLE).astype(int)]
    path = features_path(
        fingerprint_of(
            program=__version__,
            model=encoder.digest,
            source=shown.source.fingerprint,
            pictures=hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest(),
            trigger=None if shown.trigger is None else shown.trigger.config,
            geometry=shown.geometry,
            size=size,
            **({} if shown.plan is None else {"plan": shown.plan.digest}),
            sample=_digest_of(replace(shown, indices=np.unique(sample)), size, reading),
        )
    )
    if (cached := load_features(path)) is not None:
        rows, facts = cached
        unreadable = {int(index): text for index, text in facts["unreadable"].items()}
        if not any(_readable(shown.source, index) for index in unreadable):
            log.info("features of %d pictures from %s", len(rows), path)
            return Features(rows, indices[~np.isin(indices, list(unreadable))], unreadable)
    features = _computed(encoder, shown, size, reading)
    save_features(path, features.rows, {"unreadable": features.unreadable}, reading.cache)
    return features


def _computed(encoder: Encoder, shown: Shown, size: int, reading: Reading) -> Features:
    batch_size = encoder.rows(reading.batch_size)
    # Allocated whole, so that long sets are not held twice.
    rows = np.zeros((len(shown.indices), encoder.model.variant.features), np.float32)
    index, done = np.zeros(len(shown.indices), np.int64), 0
    with batches_of(shown, size, replace(reading, batch_size=batch_size)) as batches:
        for batch in batches:
            if count := len(batch["index"]):
                place = slice(done, done + count)
                rows[place] = encoder.image_features(batch["images"], batch_size)
                index[place], done = batch["index"], done + count
        unreadable = dict(batches.unreadable)
    check_finite(rows[:done], "pictures")
    return Features(rows[:done], index[:done], unreadable)


def check_finite(rows: Float32[np.ndarray, "n d"], what: str) -> None:
    """Refuses features that hold NaN or infinity, and says how many."""
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
    whole = hashlib.sha256()
    with batches_of(shown, size, replace(reading, batch_size=SAMPLE, workers=0)) as batches:
        for batch in batches:
            whole.update(batch["index"].tobytes() + batch["images"].tobytes())
    return whole.hexdigest()


def batches_of(shown: Shown, size: int, reading: pipeline.Reading) -> Batches[PictureBatch]:
    """The pictures as a model of that size is shown them."""
    options = {key: value for key, value in vars(shown).items() if key != "source"}
    return evaluation_batches(shown.source, reading, image_size=size, **options)


def _readable(source: Source, index: int) -> bool:
    try:
        read_picture(source, index)
    except BadRecord:
        return False
    return True


def rows_of_all(rows: np.ndarray) -> np.ndarray:
    """The rows of every process, in the order of the processes."""
    counts = np.asarray(multihost_utils.process_allgather(np.array(len(rows))))
    padded = np.pad(rows, [(0, int(counts.max()) - len(rows)), *[(0, 0)] * (rows.ndim - 1)])
    every = np.asarray(multihost_utils.process_allgather(padded))
    return np.concatenate([part[:count] for part, count in zip(every, counts, strict=True)])


def texts_of(encoder: Encoder, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
    """Un-normalised text features; computed by every process, never cached."""
    rows = encoder.text_features(texts)
    check_finite(rows, "texts")
    return rows


def geometry_of(settings: ConfigDict) -> str:
    """How triggered pictures come to their size ("trigger after crop" in docs/fidelity.md)."""
    return "crop" if settings.attack is None else settings.attack.get("geometry", "crop")


def with_trigger(
    settings: ConfigDict,
    source: Source,
    indices: Int64[np.ndarray, " n"],
    trigger: Trigger | None = None,
) -> Shown:
    """Pictures with the trigger of a `config.evaluation`: by default the first part's."""
    if trigger is None:
        trigger = parts_of(settings.attack.to_dict(), "evaluation.attack")[0].trigger
    return Shown(source, indices, trigger, geometry_of(settings))


def clean_and_triggered(
    config: ConfigDict, encoder: Encoder, source: Source, indices: Int64[np.ndarray, " n"]
) -> tuple[Features, Features]:
    """Features of the same pictures without and with the trigger."""
    reading = reading_of(config)
    clean = embed(encoder, Shown(source, indices), reading)
    return clean, embed(encoder, with_trigger(config.evaluation, source, clean.index), reading)
