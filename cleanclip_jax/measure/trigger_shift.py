"""The pictures whose embeddings a trigger turns furthest, and what models then take them for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8
from ml_collections import ConfigDict

from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.data.stream.pipeline import Reading, evaluation_batches
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Shown, embed, reading_of
from cleanclip_jax.measure.ranks import Classifier, rank_classes
from cleanclip_jax.measure.sets import open_sets
from cleanclip_jax.measure.zeroshot import text_classifier, unit


@dataclass(frozen=True)
class Seen:
    """What one model takes a picture for.

    Attributes:
      clean, triggered: class names, without and with the trigger.
      cosine: between the two embeddings; 1 where the trigger changes nothing.
    """

    clean: str
    triggered: str
    cosine: float


@dataclass(frozen=True)
class Changed:
    """A picture as the first model was shown it, without and with the trigger.

    Attributes:
      where: its place in the set.
      seen: by the models' names, in their order.
    """

    where: str
    true: str
    clean: UInt8[np.ndarray, "s s 3"]
    triggered: UInt8[np.ndarray, "s s 3"]
    seen: Mapping[str, Seen]


def most_changed(
    config: ConfigDict, models: Mapping[str, tuple[Encoder, Classifier | None]], count: int
) -> list[Changed]:
    """Pictures of the first set's other classes, the one turned furthest by the first model first.

    How far is the angle between the unit embeddings of the picture without and with the trigger.

    Args:
      config: names the set and the attack, under `evaluation`.
      models: each with its linear head, None where prompts give the classes.

    Raises:
      UserError: no set, or no attack on it.
    """
    asked = config.evaluation
    sets = open_sets(asked)
    if not sets or sets[0].target is None or asked.attack is None:
        raise UserError("there is no labelled set with an attack on it to look at")
    first = sets[0]
    reading = reading_of(config)
    trigger = make_trigger(asked.attack.trigger.to_dict())
    geometry = asked.attack.get("geometry", "crop")
    chosen: Int64[np.ndarray, " n"] | None = None
    seen: list[dict[str, Seen]] = []
    for name, (subject, head) in models.items():
        clean = embed(subject, Shown(first.source, np.flatnonzero(first.labels >= 0)), reading)
        hit = embed(subject, Shown(first.source, clean.index, trigger, geometry), reading)
        rows = clean.rows[np.isin(clean.index, hit.index)]
        cosines = (unit(rows) * unit(hit.rows)).sum(1)
        if chosen is None:
            others = first.labels[hit.index] != first.target
            order = np.argsort(np.where(others, cosines, np.inf), kind="stable")
            chosen = hit.index[order[: min(count, int(others.sum()))]]
            seen = [{} for _ in chosen]
        at = [int(np.flatnonzero(hit.index == index)[0]) for index in chosen]
        classifier = head or text_classifier(subject, first.classes, first.templates)
        before = _predicted(rows[at], classifier, subject)
        after = _predicted(hit.rows[at], classifier, subject)
        for own, was, became, cosine in zip(seen, before, after, cosines[at], strict=True):
            own[name] = Seen(was, became, float(cosine))
    assert chosen is not None, "no model was given"
    size = next(iter(models.values()))[0].model.variant.image_size
    pictures = []
    for shown in ((None, "crop"), (trigger, geometry)):
        with evaluation_batches(
            first.source,
            Reading(max(1, len(chosen))),
            image_size=size,
            trigger=shown[0],
            indices=np.sort(chosen),
            geometry=shown[1],
        ) as batches:
            found = [(i, p) for b in batches for i, p in zip(b["index"], b["images"], strict=True)]
            pictures.append({int(index): picture for index, picture in found})
    return [
        Changed(
            where=first.source.where(index),
            true=first.classes[first.labels[index]],
            clean=pictures[0][index],
            triggered=pictures[1][index],
            seen=own,
        )
        for index, own in zip(chosen.tolist(), seen, strict=True)
    ]


def _predicted(
    rows: Float[np.ndarray, "n d"], classifier: Classifier, subject: Encoder
) -> list[str]:
    """The class that comes first for each row."""
    every = np.tile(np.arange(len(classifier.names)), (len(rows), 1))
    ranks = rank_classes(rows, every, classifier, subject.mesh)
    return [classifier.names[index] for index in ranks.argmin(1)]
