"""Everything that is measured of one model on one labelled set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.attacks.triggers import Trigger, make_trigger
from cleanclip_jax.data.pipeline import evaluation_batches
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.evaluation.success import attack_figures, clean_figures
from cleanclip_jax.evaluation.zeroshot import make_ranker, rank_all, text_classifier
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.text.prompts import class_index, templates
from cleanclip_jax.text.tokenizer import Tokenizer


def find_target(asked: ConfigDict) -> tuple[Source, tuple[str, ...], int | None]:
    """Returns the labelled set of a `config.evaluation`, its class names and the target's index.

    Raises:
      UserError: no labelled set, no classes in it, or no such class.
    """
    if not asked.data:
        raise UserError("config.evaluation.data is not set: name a labelled source")
    source = open_source(asked.data.to_dict())
    names = source.class_names
    if not names:
        raise UserError(
            "config.evaluation.data has no classes: name its column with "
            "config.evaluation.data.class_name"
        )
    target = asked.target
    if target is None and asked.attack is not None:
        target = asked.attack.get("target")
        if target is None:
            raise UserError("config.evaluation.attack has no target, nor has config.evaluation")
    return source, names, None if target is None else class_index(target, names)


def evaluate(
    config: ConfigDict,
    model: CLIP,
    variables: Mapping[str, Any],
    tokenizer: Tokenizer,
    mesh: Mesh,
) -> dict[str, Any]:
    """Measures CA, and with an attack ASR and its company, as `config.evaluation` says.

    Returns:
      what evaluation.json holds: target, classes, templates, pictures, figures.

    Raises:
      UserError: no labelled set, no such target, or a set without one readable picture.
    """
    asked = config.evaluation
    source, names, target = find_target(asked)
    prompts = templates(asked.templates)
    classifier = text_classifier(model, variables, tokenizer, names, prompts)
    rank = make_ranker(model, variables, classifier, mesh)
    labelled = np.flatnonzero(source.labels() >= 0)
    size = model.variant.image_size
    batch_size = -(-asked.batch_size // mesh.devices.size) * mesh.devices.size
    unreadable = 0

    def measure(trigger: Trigger | None) -> tuple[np.ndarray, np.ndarray]:
        nonlocal unreadable
        geometry = asked.attack.get("geometry", "crop") if trigger is not None else "crop"
        batches = evaluation_batches(
            source,
            image_size=size,
            batch_size=batch_size,
            trigger=trigger,
            indices=labelled,
            geometry=geometry,
            timeout=config.data.timeout,
            workers=asked.workers,
        )
        with batches:
            found = rank_all(rank, batches, batch_size, target)
            unreadable = len(batches.unreadable)
        allowed = config.data.max_bad_share * len(labelled)
        if unreadable > allowed or not len(found[0]):
            last = [*batches.unreadable.values(), "no picture has a class"][0]
            raise UserError(
                f"{unreadable} of {len(labelled)} pictures are unreadable, more than "
                f"config.data.max_bad_share allows; the first: {last}"
            )
        return found

    figures = clean_figures(*measure(None), target, len(names))
    if asked.attack is not None and target is not None:
        trigger = make_trigger(asked.attack.trigger.to_dict())
        figures |= attack_figures(*measure(trigger), target)
    return {
        "target": None if target is None else {"index": target, "name": names[target]},
        "trigger": None if asked.attack is None else asked.attack.trigger.to_dict(),
        "classes": len(names),
        "templates": list(prompts),
        "pictures": {
            "labelled": len(labelled),
            "without_class": len(source) - len(labelled),
            "unreadable": unreadable,
        },
        "evaluation": asked.to_dict(),
        "fingerprint": source.fingerprint,
        "figures": {name: figure.to_json() for name, figure in figures.items()},
    }
