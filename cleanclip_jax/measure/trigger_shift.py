"""The pictures whose embeddings a trigger turns furthest, and what models then take them for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8
from ml_collections import ConfigDict

from cleanclip_jax.data.stream.pipeline import Reading, evaluation_batches
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Shown, clean_and_triggered, with_trigger
from cleanclip_jax.measure.ranks import Classifier, rank_classes, text_classifier, unit
from cleanclip_jax.measure.sets import attacked_set


@dataclass(frozen=True)
class Prediction:
    """What one model takes a picture for.

    Attributes:
      clean, triggered: class names, without and with the trigger.
      cosine: between the two embeddings; 1 where the trigger changes nothing.
    """

    clean: str
    triggered: str
    cosine: float


@dataclass(frozen=True)
class Shift:
    """A picture as the first model was shown it, without and with the trigger.

    Attributes:
      where: its place in the set.
      predictions: by the models' names, in their order.
    """

    where: str
    true: str
    clean: UInt8[np.ndarray, "s s 3"]
    triggered: UInt8[np.ndarray, "s s 3"]
    predictions: Mapping[str, Prediction]


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
    chosen: Int64[np.ndarray, " n"] | None = None
    predictions: dict[str, list[Prediction]] = {}
    for name, (encoder, head) in models.items():
        clean, hit = clean_and_triggered(config, encoder, first.source, first.indices)
        rows = clean.rows[np.isin(clean.index, hit.index)]
        cosines = (unit(rows) * unit(hit.rows)).sum(1)
        if chosen is None:
            others = first.labels[hit.index] != first.target
            order = np.argsort(np.where(others, cosines, np.inf), kind="stable")
            chosen = hit.index[order[: min(count, int(others.sum()))]]
        at = [int(np.flatnonzero(hit.index == index)[0]) for index in chosen]
        classifier = head or text_classifier(encoder, first.classes, first.templates)
        columns = (
            _predicted(rows[at], classifier, encoder),
            _predicted(hit.rows[at], classifier, encoder),
            cosines[at].tolist(),
        )
        predictions[name] = [Prediction(*row) for row in zip(*columns, strict=True)]
    size = next(iter(models.values()))[0].model.variant.image_size
    indices = np.zeros(0, np.int64) if chosen is None else chosen
    clean, triggered = (
        _pictures(shown, size)
        for shown in (
            Shown(first.source, np.sort(indices)),
            with_trigger(config.evaluation, first.source, np.sort(indices)),
        )
    )
    return [
        Shift(
            where=first.source.where(index),
            true=first.classes[first.labels[index]],
            clean=clean[index],
            triggered=triggered[index],
            predictions={name: several[row] for name, several in predictions.items()},
        )
        for row, index in enumerate(indices.tolist())
    ]


def _pictures(shown: Shown, size: int) -> dict[int, UInt8[np.ndarray, "s s 3"]]:
    """The pictures as a model sees them, by their records."""
    with evaluation_batches(
        shown.source,
        Reading(max(1, len(shown.indices))),
        image_size=size,
        trigger=shown.trigger,
        indices=shown.indices,
        geometry=shown.geometry,
    ) as batches:
        return {
            int(index): picture
            for batch in batches
            for index, picture in zip(batch["index"], batch["images"], strict=True)
        }


def _predicted(
    rows: Float[np.ndarray, "n d"], classifier: Classifier, encoder: Encoder
) -> Sequence[str]:
    """The class that comes first for each row."""
    every = np.tile(np.arange(len(classifier.names)), (len(rows), 1))
    ranks = rank_classes(rows, every, classifier, encoder.mesh)
    return [classifier.names[index] for index in ranks.argmin(1)]
