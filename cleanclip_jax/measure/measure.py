"""Everything that is measured of one model: its labelled sets, the attack on them, retrieval."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.accuracy import attack_figures, clean_figures
from cleanclip_jax.measure.captions import Captioned, open_captioned
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figure, Measured, MedianRank
from cleanclip_jax.measure.features import Features, Shown, embed, reading_of, texts_of
from cleanclip_jax.measure.metrics import Seen, custom_figures, find_metrics
from cleanclip_jax.measure.projection import Projection, choose, project
from cleanclip_jax.measure.ranks import Classifier, rank_classes
from cleanclip_jax.measure.retrieval import (
    backdoor_figures,
    retrieval_figures,
    retrieval_ranks,
)
from cleanclip_jax.measure.sets import LabelledSet, asked_target, open_sets
from cleanclip_jax.measure.zeroshot import text_classifier, unit
from cleanclip_jax.record import Source
from cleanclip_jax.text.prompts import fill, templates

# Of the pictures in the gallery of backdoored retrieval, where the config says no other share.
POISONED_SHARE = 0.01


def evaluate(
    config: ConfigDict,
    subject: Encoder,
    *,
    head: Classifier | None = None,
    floor: Encoder | None = None,
) -> dict[str, Any]:
    """Measures a model as `config.evaluation` says; docs/metrics.md defines each figure.

    Args:
      head: scores the classes of the sets that have the same, in place of their prompts.
      floor: a model that the attack never reached, on which its trigger is measured too.

    Returns:
      what evaluation.json holds: what was measured, and the figures by name.

    Raises:
      UserError: nothing to measure on, no such target, or a set that can't be read.
    """
    asked = config.evaluation
    sets = open_sets(asked)
    if not sets and not asked.retrieval:
        raise UserError("config.evaluation.data is not set: name a labelled source")
    if head is not None and sets and head.names != sets[0].classes:
        raise UserError(
            f"the head's {len(head.names)} classes are not the {len(sets[0].classes)} of the set "
            f"{sets[0].name!r}: measure it on the set that it was trained for"
        )
    # What may be refused is opened before anything is computed.
    gallery = _open_gallery(asked) if asked.retrieval else None
    metrics = find_metrics(asked.metrics)
    # ImageNet's variants have the same classes and prompts.
    prompts = cache(text_classifier)
    facts, figures = {}, {}
    for labelled in sets:
        own = head if head is not None and head.names == labelled.classes else None
        classifier = own or prompts(subject, labelled.classes, labelled.templates)
        found, unreadable = _measure(config, subject, labelled, classifier)
        if metrics:
            found |= custom_figures(metrics, _seen(config, subject, labelled, classifier))
        if floor is not None:
            texts = prompts(floor, labelled.classes, labelled.templates)
            below, _ = _measure(config, floor, labelled, texts, control=False)
            found |= {f"floor_{name}": _said(f, "floor") for name, f in below.items()}
        figures |= {labelled.prefix + name: figure for name, figure in found.items()}
        facts[labelled.name] = _facts(labelled, classifier, unreadable)
    retrieval = None
    if gallery is not None:
        retrieval, found = _retrieve(config, subject, gallery, sets)
        figures |= {f"retrieval.{name}": figure for name, figure in found.items()}
    return {
        "trigger": None if asked.attack is None else asked.attack.trigger.to_dict(),
        "geometry": _geometry(asked),
        "sets": facts,
        "retrieval": retrieval,
        "evaluation": asked.to_dict(),
        "figures": {name: figure.to_json() for name, figure in figures.items()},
    }


def project_first(config: ConfigDict, subject: Encoder) -> Projection:
    """Projects embeddings of the first set's pictures, `config.evaluation.projection` of them.

    Raises:
      UserError: no set, or no attack on it.
    """
    sets = open_sets(config.evaluation)
    first = sets[0] if sets else None
    if first is None or first.target is None or config.evaluation.attack is None:
        raise UserError("config.evaluation.projection needs a labelled set and an attack on it")
    # All of them, though few are drawn: they are kept from measuring the set.
    clean, triggered = _both(config, subject, first.source, np.flatnonzero(first.labels >= 0))
    drawn = np.isin(clean.index, choose(first.labels, config.evaluation.projection, config.seed))
    index = clean.index[drawn]
    return project(
        unit(clean.rows[drawn]),
        unit(triggered.rows[drawn]),
        first.labels[index],
        index,
        first.target,
        config.seed,
    )


def _measure(
    config: ConfigDict,
    subject: Encoder,
    labelled: LabelledSet,
    classifier: Classifier,
    control: bool = True,
) -> tuple[Measured, int]:
    """A set's figures, and how many of its pictures could not be read."""
    asked, target, classes = config.evaluation, labelled.target, len(labelled.classes)
    indices = np.flatnonzero(labelled.labels >= 0)
    if not len(indices):
        raise UserError(f"the set {labelled.name!r} is empty: no picture has a class")

    def ranks(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
        features = embed(subject, shown, reading_of(config))
        labels = labelled.labels[features.index]
        targets = labels if target is None else np.full_like(labels, target)
        asked_of = np.stack([labels, targets], 1)
        return labels, rank_classes(features.rows, asked_of, classifier, subject.mesh)

    labels, found = ranks(Shown(labelled.source, indices))
    figures: Measured = {**clean_figures(labels, found, target, classes)}
    if control and (asked.control or _geometry(asked) == "squash"):
        squashed = clean_figures(
            *ranks(Shown(labelled.source, indices, None, "squash")), target, classes
        )
        for name, figure in squashed.items():
            figures[f"control_{name.removeprefix('clean_')}"] = _said(figure, "squashed")
    if asked.attack is not None and target is not None:
        triggered = ranks(_triggered(asked, labelled.source, indices))
        figures |= attack_figures(*triggered, target, classes)
    return figures, len(indices) - len(labels)


def _seen(
    config: ConfigDict, subject: Encoder, labelled: LabelledSet, classifier: Classifier
) -> Seen:
    """What metrics of one's own are computed from; the features come from the cache."""
    target, indices = labelled.target, np.flatnonzero(labelled.labels >= 0)
    if config.evaluation.attack is None or target is None:
        clean, triggered = embed(subject, Shown(labelled.source, indices), reading_of(config)), None
    else:
        clean, triggered = _both(config, subject, labelled.source, indices)
    labels = labelled.labels[clean.index]
    return Seen(labels, clean.rows, triggered and triggered.rows, target, classifier)


def _open_gallery(asked: ConfigDict) -> tuple[Captioned, float]:
    """The pictures and captions of `config.evaluation.retrieval`, and its poisoned share."""
    options = asked.retrieval.to_dict()
    poisoned_share = options.pop("poisoned_share", POISONED_SHARE)
    if not isinstance(poisoned_share, float) or not 0 < poisoned_share < 1:
        raise UserError(
            f"config.evaluation.retrieval.poisoned_share is {poisoned_share!r}: give a share "
            "between 0 and 1"
        )
    return open_captioned(options), poisoned_share


def _retrieve(
    config: ConfigDict,
    subject: Encoder,
    gallery: tuple[Captioned, float],
    sets: list[LabelledSet],
) -> tuple[dict[str, Any], Measured]:
    """What was retrieved from, and retrieval's figures."""
    asked = config.evaluation
    captioned, poisoned_share = gallery
    source, indices = captioned.source, np.arange(len(captioned.source))
    target = asked_target(asked)
    if sets and sets[0].target is not None:
        target = sets[0].classes[sets[0].target]
    # An index means a labelled set's class, and there is none.
    attacked = asked.attack is not None and isinstance(target, str)
    if attacked:
        clean, triggered = _both(config, subject, source, indices)
    else:
        clean, triggered = embed(subject, Shown(source, indices), reading_of(config)), None
    texts, owner = captioned.of(clean.index)
    images = unit(clean.rows)
    ranks = retrieval_ranks(images, unit(texts_of(subject, texts)), owner, subject.mesh)
    with_captions = np.bincount(owner, minlength=len(images)) > 0
    figures = retrieval_figures(ranks, with_captions)
    if triggered is not None:
        prompts = [fill(template, str(target)) for template in templates(asked.templates)]
        queries = unit(texts_of(subject, prompts))
        lifted = unit(triggered.rows)
        figures |= backdoor_figures(images, lifted, queries, poisoned_share, config.seed)
    return {
        "pictures": len(images),
        "unreadable": len(source) - len(images),
        "without_caption": int((~with_captions).sum()),
        "captions": len(texts),
        "empty_captions": captioned.empty,
        "target": target if attacked else None,
        "poisoned_share": poisoned_share if attacked else None,
        "fingerprint": source.fingerprint,
    }, figures


def _both(
    config: ConfigDict, subject: Encoder, source: Source, indices: Int64[np.ndarray, " n"]
) -> tuple[Features, Features]:
    """Features of the same pictures without and with the trigger."""
    reading = reading_of(config)
    clean = embed(subject, Shown(source, indices), reading)
    return clean, embed(subject, _triggered(config.evaluation, source, clean.index), reading)


def _triggered(asked: ConfigDict, source: Source, indices: Int64[np.ndarray, " n"]) -> Shown:
    trigger = make_trigger(asked.attack.trigger.to_dict())
    return Shown(source, indices, trigger, _geometry(asked))


def _geometry(asked: ConfigDict) -> str:
    """How triggered pictures come to their size (fidelity row 7)."""
    return "crop" if asked.attack is None else asked.attack.get("geometry", "crop")


def _said(figure: Figure | MedianRank, what: str) -> Figure | MedianRank:
    """The figure with what sets it apart before its definition."""
    return replace(figure, definition=f"{what}: {figure.definition}")


def _facts(labelled: LabelledSet, classifier: Classifier, unreadable: int) -> dict[str, Any]:
    target, pictures = labelled.target, int((labelled.labels >= 0).sum())
    return {
        "classes": len(labelled.classes),
        "classifier": classifier.what,
        "templates": list(labelled.templates),
        "target": None if target is None else {"index": target, "name": labelled.classes[target]},
        "note": labelled.note,
        "pictures": {
            "labelled": pictures,
            "without_class": len(labelled.source) - pictures,
            "unreadable": unreadable,
        },
        "fingerprint": labelled.source.fingerprint,
    }
