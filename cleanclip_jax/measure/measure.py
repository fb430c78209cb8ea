"""Everything that is measured of one model: its labelled sets, the attack on them, retrieval."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.branches import check_branches, swap
from cleanclip_jax.measure.captions import Captioned, open_captioned
from cleanclip_jax.measure.decomposition import Repair, open_repair
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figures
from cleanclip_jax.measure.features import (
    Features,
    Shown,
    clean_and_triggered,
    embed,
    geometry_of,
    reading_of,
    texts_of,
)
from cleanclip_jax.measure.goals import attacked_of, clean_of, columns_of, goals_of
from cleanclip_jax.measure.metrics import METRICS, Metric, Seen, custom_figures
from cleanclip_jax.measure.projection import check_projection
from cleanclip_jax.measure.ranks import Classifier, rank_classes, text_classifier, unit
from cleanclip_jax.measure.retrieval import backdoor_figures, retrieval_figures, retrieval_ranks
from cleanclip_jax.measure.sets import LabelledSet, attacked, open_sets, target_of
from cleanclip_jax.measure.targeted import targeted_of
from cleanclip_jax.measure.word_hits import hits_of
from cleanclip_jax.record import Source
from cleanclip_jax.table_keys import is_targeted
from cleanclip_jax.text.prompts import fill, templates

# Of the pictures in the gallery of backdoored retrieval, where the config says no other share.
POISONED_SHARE = 0.01


class Opened(NamedTuple):
    """What a `config.evaluation` measures, opened: what may be refused was."""

    sets: list[LabelledSet]  # the main one first; none where retrieval alone is measured
    metrics: dict[str, Metric]
    gallery: Captioned | None  # to retrieve from
    poisoned_share: float  # of the gallery, that bears the trigger in one figure
    repair: Repair | None = None  # of a ViT, which is measured with each of the repairs, too


def open_measured(settings: ConfigDict) -> Opened:
    """Opens what a `config.evaluation` names; what can't be measured so is refused."""
    sets = open_sets(settings)
    if not sets and not settings.retrieval:
        raise UserError("config.evaluation.data is not set: name a labelled source")
    for labelled in sets:
        if not len(labelled.indices):
            raise UserError(f"the set {labelled.name!r} is empty: no picture has a class")
        goals_of(settings, labelled)
    if settings.attack is not None:
        parts_of(settings.attack.to_dict(), "evaluation.attack")
    if settings.projection:
        check_projection(settings, attacked(settings, sets))
    options = settings.retrieval.to_dict() if settings.retrieval else {}
    poisoned_share = options.pop("poisoned_share", POISONED_SHARE)
    if not isinstance(poisoned_share, float) or not 0 < poisoned_share < 1:
        raise UserError(
            f"config.evaluation.retrieval.poisoned_share is {poisoned_share!r}: give a share "
            "between 0 and 1"
        )
    names = [settings.metrics] if isinstance(settings.metrics, str) else settings.metrics or ()
    metrics, gallery = {name: METRICS.find(name) for name in names}, None
    if settings.retrieval:
        templates(settings.templates or "imagenet")
        gallery = open_captioned(options)
    repair = open_repair(settings.repair.to_dict()) if settings.repair else None
    return Opened(sets, metrics, gallery, poisoned_share, repair)


def evaluate(
    config: ConfigDict,
    encoder: Encoder,
    *,
    head: Classifier | None = None,
    floor: Encoder | None = None,
    opened: Opened | None = None,
) -> dict[str, Any]:
    """Measures a model as `config.evaluation` says; docs/metrics.md defines each figure.

    Args:
      head: scores the classes of the sets that have the same, in place of their prompts.
      floor: a model that the attack never reached, on which its trigger is measured too.
      opened: what `open_measured` gave, where it was called.

    Returns:
      what evaluation.json holds: what was measured, and the figures by name.
    """
    settings = config.evaluation
    opened = opened or open_measured(settings)
    sets = opened.sets
    if settings.branches and floor is not None:
        check_branches(settings, encoder, head, floor)
    if head is not None and sets and head.names != sets[0].classes:
        raise UserError(
            f"the head's {len(head.names)} classes are not the {len(sets[0].classes)} of the set "
            f"{sets[0].name!r}: measure it on the set that it was trained for"
        )
    # ImageNet's variants have the same classes and prompts.
    prompts = cache(text_classifier)
    facts, figures, branches = {}, {}, {}
    for labelled in sets:
        classifier = head if head is not None and head.names == labelled.classes else None
        classifier = classifier or prompts(encoder, labelled.classes, labelled.templates)
        measured, unreadable = _measure(config, encoder, labelled, classifier)
        if opened.metrics:
            seen = _seen(config, encoder, labelled, classifier)
            measured |= custom_figures(opened.metrics, seen, taken=measured)
        for how, repaired in opened.repair.encoders(encoder) if opened.repair else ():
            after, _ = _measure(config, repaired, labelled, classifier, control=False)
            measured |= _marked(after, f"repaired_{how}", f"{how} repaired")
        if floor is not None:
            texts = prompts(floor, labelled.classes, labelled.templates)
            below, _ = _measure(config, floor, labelled, texts, control=False)
            measured |= _marked(below, "floor", "floor")
            if settings.branches:
                image, _ = _measure(config, encoder, labelled, texts, control=False)
                text, _ = _measure(config, floor, labelled, classifier, control=False)
                swapped, branches[labelled.name] = swap(below, image, text, measured)
                measured |= swapped
        figures |= {labelled.prefix + name: figure for name, figure in measured.items()}
        facts[labelled.name] = _facts(labelled, classifier, unreadable)
    retrieval = None
    if opened.gallery is not None:
        retrieval, measured = _retrieve(config, encoder, opened, opened.gallery)
        figures |= {f"retrieval.{name}": figure for name, figure in measured.items()}
    return {
        **_attack_facts(settings),
        "geometry": geometry_of(settings),
        "sets": facts,
        "branches": branches or None,
        "retrieval": retrieval,
        "evaluation": settings.to_dict(),
        "figures": {name: figure.to_json() for name, figure in figures.items()},
    }


def _measure(
    config: ConfigDict,
    encoder: Encoder,
    labelled: LabelledSet,
    classifier: Classifier,
    control: bool = True,
) -> tuple[Figures, int]:
    """A set's figures, and how many of its pictures could not be read."""
    settings, classes, indices = config.evaluation, len(labelled.classes), labelled.indices
    goals = goals_of(settings, labelled)

    def ranks(shown: Shown, scores: Classifier = classifier) -> tuple[np.ndarray, np.ndarray]:
        features = embed(encoder, shown, reading_of(config))
        labels = labelled.labels[features.index]
        columns = columns_of(labels, goals)
        return labels, rank_classes(features.rows, columns, scores, encoder.mesh)

    labels, places = ranks(Shown(labelled.source, indices))
    figures = clean_of(labels, places, goals, classes)
    if control and (settings.control or geometry_of(settings) == "squash"):
        squashed = ranks(Shown(labelled.source, indices, None, "squash"))
        squashed = clean_of(*squashed, goals, classes)
        figures |= _marked(squashed, "control", "squashed", but="clean_")
    if settings.attack is not None:
        figures |= attacked_of(settings, encoder, labelled, classifier, goals, ranks)
        figures |= hits_of(config, encoder, labelled, goals)
        figures |= targeted_of(config, encoder, labelled, classifier)
    return figures, len(indices) - len(labels)


def _seen(
    config: ConfigDict, encoder: Encoder, labelled: LabelledSet, classifier: Classifier
) -> Seen:
    """What metrics of one's own are computed from; the features come from the cache."""
    hit = config.evaluation.attack is not None and labelled.target is not None
    clean, triggered = _shown(config, encoder, labelled.source, labelled.indices, hit)
    labels = labelled.labels[clean.index]
    return Seen(labels, clean.rows, triggered and triggered.rows, labelled.target, classifier)


def _shown(
    config: ConfigDict, encoder: Encoder, source: Source, indices: np.ndarray, hit: bool
) -> tuple[Features, Features | None]:
    """Features of the pictures, and where there is an attack of the same with the trigger."""
    if hit:
        return clean_and_triggered(config, encoder, source, indices)
    return embed(encoder, Shown(source, indices), reading_of(config)), None


def _retrieve(
    config: ConfigDict, encoder: Encoder, opened: Opened, captioned: Captioned
) -> tuple[dict[str, Any], Figures]:
    """What was retrieved from, and retrieval's figures."""
    settings, sets, poisoned_share = config.evaluation, opened.sets, opened.poisoned_share
    source, indices = captioned.source, np.arange(len(captioned.source))
    target = target_of(settings)
    if sets and sets[0].target is not None:
        target = sets[0].classes[sets[0].target]
    # An index means a labelled set's class, and there is none.
    named = settings.attack is not None and isinstance(target, str)
    clean, triggered = _shown(config, encoder, source, indices, named)
    texts, owner = captioned.of(clean.index)
    images = unit(clean.rows)
    ranks = retrieval_ranks(images, unit(texts_of(encoder, texts)), owner, encoder.mesh)
    with_captions = np.bincount(owner, minlength=len(images)) > 0
    figures = retrieval_figures(ranks, with_captions)
    if triggered is not None:
        prompts = [
            fill(template, str(target)) for template in templates(settings.templates or "imagenet")
        ]
        queries, lifted = unit(texts_of(encoder, prompts)), unit(triggered.rows)
        figures |= backdoor_figures(images, lifted, queries, poisoned_share, config.seed)
    return {
        "pictures": len(images),
        "unreadable": len(source) - len(images),
        "without_caption": int((~with_captions).sum()),
        "captions": len(texts),
        "empty_captions": captioned.empty,
        "target": target if named else None,
        "poisoned_share": poisoned_share if named else None,
        "fingerprint": source.fingerprint,
    }, figures


def _marked(figures: Figures, prefix: str, what: str, but: str = "") -> Figures:
    """Figures with what sets them apart before their names, less `but`, and definitions."""
    return {
        f"{prefix}_{name.removeprefix(but)}": replace(one, definition=f"{what}: {one.definition}")
        for name, one in figures.items()
    }


def _attack_facts(settings: ConfigDict) -> dict[str, Any]:
    """The trigger that was measured; of several parts the first's, and all of each."""
    if (attack := settings.attack) is None:
        return {"trigger": None}
    if attack.get("parts") is None and not is_targeted(attack):
        return {"trigger": attack.trigger.to_dict()}
    parts = parts_of(attack.to_dict(), "evaluation.attack")
    described = [{"name": part.name, **part.config} for part in parts]
    return {"trigger": parts[0].trigger.config, "parts": described}


def _facts(labelled: LabelledSet, classifier: Classifier, unreadable: int) -> dict[str, Any]:
    target, pictures = labelled.target, len(labelled.indices)
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
