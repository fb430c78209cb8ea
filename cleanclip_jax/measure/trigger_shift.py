"""The pictures whose embeddings a trigger turns furthest, and what models then take them for."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import (
    Reading,
    Shown,
    batches_of,
    clean_and_triggered,
    with_trigger,
)
from cleanclip_jax.measure.ranks import Classifier, rank_classes, text_classifier, unit
from cleanclip_jax.measure.sets import attacked_set


class Prediction(NamedTuple):
    """What one model takes a picture for, without and with the trigger."""

    clean: str
    triggered: str
    cosine: float  # between the two embeddings; 1 where the trigger changes nothing


class Shift(NamedTuple):
    """A picture as the first model was shown it, without and with the trigger."""

    where: str  # its place in the set
    true: str
    clean: UInt8[np.ndarray, "s s 3"]
    triggered: UInt8[np.ndarray, "s s 3"]
    predictions: Mapping[str, Prediction]  # by the models' names, in their order


def largest_shifts(
    config: ConfigDict, models: Mapping[str, tuple[Encoder, Classifier | None]], count: int
) -> list[Shift]:
    """Pictures of the first set's other classes, the one turned furthest by the first model first.

    How far is the angle between the unit embeddings of the picture without and with the trigger.

    Args:
      config: names the set and the attack, under `evaluation`.
      models: one or more, each with its linear head, None where prompts give the classes.
    """
    first = attacked_set(config.evaluation)
    if first is None:
        raise UserError("there is no labelled set with an attack on it to look at")
    chosen = np.zeros(0, np.int64)
    predictions: dict[str, list[Prediction]] = {}
    for name, (encoder, head) in models.items():
        clean, hit = clean_and_triggered(config, encoder, first.source, first.indices)
        rows = clean.rows[np.isin(clean.index, hit.index)]
        cosines = (unit(rows) * unit(hit.rows)).sum(1)
        if not predictions:
            others = first.labels[hit.index] != first.target
            order = np.argsort(np.where(others, cosines, np.inf), kind="stable")
            chosen = hit.index[order[: min(count, int(others.sum()))]]
        at = np.searchsorted(hit.index, chosen)  # records ascend
        classifier = head or text_classifier(encoder, first.classes, first.templates)
        every = np.tile(np.arange(len(classifier.names)), (len(at), 1))
        seen = (
            rank_classes(each[at], every, classifier, encoder.mesh).argmin(1)
            for each in (rows, hit.rows)
        )
        names = ([classifier.names[index] for index in indices] for indices in seen)
        columns = zip(*names, cosines[at].tolist(), strict=True)
        predictions[name] = [Prediction(*row) for row in columns]
    size = next(iter(models.values()))[0].model.variant.image_size
    shown = Shown(first.source, np.sort(chosen))
    clean = _pictures(shown, size)
    triggered = _pictures(with_trigger(config.evaluation, first.source, shown.indices), size)
    return [
        Shift(
            *(first.source.where(index), first.classes[first.labels[index]]),
            *(clean[index], triggered[index]),
            {name: several[row] for name, several in predictions.items()},
        )
        for row, index in enumerate(chosen.tolist())
    ]


def _pictures(shown: Shown, size: int) -> dict[int, UInt8[np.ndarray, "s s 3"]]:
    """The pictures as a model sees them, by their records."""
    with batches_of(shown, size, Reading(max(1, len(shown.indices)))) as batches:
        pairs = (zip(batch["index"], batch["images"], strict=True) for batch in batches)
        return {int(index): picture for several in pairs for index, picture in several}
