"""Whether one small perturbation of all pictures wakes a cleaned backdoor's trigger.

Any model has universal perturbations. So it is sought anew, with the same bound and steps, for the
trigger on the cleaned model, for pictures without it, and for both on a never poisoned model.
"""

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder, fill_up
from cleanclip_jax.measure.estimates import Figure, share
from cleanclip_jax.measure.features import Shown, batches_of, reading_of, with_trigger
from cleanclip_jax.measure.goals import Goal
from cleanclip_jax.measure.ranks import Classifier, rank_classes, text_classifier
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.persist.trial import Figures, Trial
from cleanclip_jax.persist.universal import features_of, make_wake_step
from cleanclip_jax.record import Source
from cleanclip_jax.sharding import copied_over, place_batch

BATCH, INNER = 128, 5  # as the released code: pictures of a step, and steps of a batch
SHOWN = {"trigger": True, "no trigger": False}


def measure_reactivation(trial: Trial, say: Callable[[str], None]) -> None:
    """How often pictures land on the target with a perturbation that was sought for that."""
    for model in trial.models:
        for at in SHOWN:
            for seed in trial.settings.seeds:
                row = {"protocol": "reactivation", "model": model, "at": at, "seed": seed}
                if not trial.known(**row):
                    say(f"reactivation: {model}, {at}, seed {seed}")
                    trial.once(partial(_woken, trial, model, at, seed), **row)


def _woken(trial: Trial, model: str, at: str, seed: int) -> Figures:
    """Of each part `asr`, with the perturbation, and `before`, without one."""
    encoder, labelled = trial.encoder(trial.starts[model]), trial.opened.sets[0]
    classifier = text_classifier(encoder, labelled.classes, labelled.templates)
    figures: dict[str, Figure] = {}
    for goal in trial.goals:
        assert goal.target is not None  # the main set has every target
        drawn = np.random.default_rng([seed, 1]).permutation(len(trial.source))
        pictures = _pictures(trial, trial.source, drawn[: trial.settings.pictures], goal, at)
        delta = search(trial, encoder, pictures, classifier, goal.target, seed)
        name = f"{model},{at.replace(' ', '_')},seed={seed}{goal.of}.npy"
        _save(trial, name, delta)
        for kind, one in (("asr", delta), ("before", np.zeros_like(delta))):
            landed = landing(trial, encoder, goal, at, one, classifier)
            what = f"{'perturbed ' if kind == 'asr' else ''}pictures of other classes, with {at}"
            figures[kind + goal.of] = share(landed, f"{what}, for which the target comes first")
    return {name: figure.to_json() for name, figure in figures.items()}


def _save(trial: Trial, name: str, perturbation: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, perturbation)
    trial.folder.write(f"perturbations/{name}", stream.getvalue())


def _shown(trial: Trial, source: Source, indices: np.ndarray, goal: Goal, at: str) -> Shown:
    if SHOWN[at] and goal.part is not None:
        return with_trigger(trial.config.evaluation, source, indices, goal.part.trigger)
    return Shown(source, indices)


def _pictures(
    trial: Trial, source: Source, indices: np.ndarray, goal: Goal, at: str
) -> UInt8[np.ndarray, "n s s 3"]:
    shown = _shown(trial, source, np.sort(indices), goal, at)
    size = trial.config.model.image_size
    with batches_of(shown, size, reading_of(trial.config)) as batches:
        parts = [batch["images"] for batch in batches]
        unreadable = len(batches.unreadable)
    pictures = np.concatenate(parts)
    if unreadable > trial.config.data.max_bad_share * len(indices) or not len(pictures):
        raise UserError(
            f"{unreadable} of {len(indices)} pictures of the pairs are unreadable, more than "
            "config.data.max_bad_share allows"
        )
    return pictures


def search(
    trial: Trial,
    encoder: Encoder,
    pictures: UInt8[np.ndarray, "n s s 3"],
    classifier: Classifier,
    target: int,
    seed: int,
) -> Float32[np.ndarray, "s s 3"]:
    """A perturbation within the radius that brings these pictures to the target.

    It begins uniform within the radius. Batches are drawn anew each round; a last, smaller one is
    dropped, as in the released code.
    """
    settings = trial.settings
    rng = np.random.default_rng([seed, 2])
    begun = rng.uniform(-settings.radius, settings.radius, pictures.shape[1:]).astype(np.float32)
    place = copied_over(encoder.mesh)
    delta = jax.device_put(jnp.asarray(begun), place)
    classes = jax.device_put(classifier.weights.astype(np.float32), place)
    step = make_wake_step(encoder.model, settings.radius, settings.step_size)
    devices = encoder.mesh.devices.size
    size = min(BATCH, len(pictures)) // devices * devices
    if not size:
        raise UserError(f"{len(pictures)} pictures are too few for {devices} devices")
    for _ in range(settings.rounds):
        order = rng.permutation(len(pictures))
        for start in range(0, len(order) - size + 1, size):
            some = pictures[order[start : start + size]]
            images = place_batch(encoder.mesh, {"images": some})["images"]
            for _ in range(INNER):
                delta = step(delta, encoder.variables, images, classes, target)[0]
    perturbation = np.asarray(delta)
    if not np.isfinite(perturbation).all():
        raise UserError("the perturbation is not finite: lower --step-size")
    return perturbation


def landing(
    trial: Trial,
    encoder: Encoder,
    goal: Goal,
    at: str,
    perturbation: Float32[np.ndarray, "s s 3"],
    classifier: Classifier,
) -> np.ndarray:
    """Which pictures of other classes land on the target, of those that can be read."""
    labelled, target = trial.opened.sets[0], goal.target
    others = labelled.indices[labelled.labels[labelled.indices] != target]
    shown = _shown(trial, labelled.source, others, goal, at)
    reading = reading_of(trial.config)
    size, parts = encoder.rows(reading.batch_size), []
    with batches_of(shown, trial.config.model.image_size, reading) as batches:
        for batch in batches:
            if count := len(batch["index"]):
                images = place_batch(encoder.mesh, {"images": fill_up(batch["images"], size)})
                rows = _features(
                    *(encoder.model, encoder.variables, images["images"], perturbation)
                )
                parts.append(np.asarray(rows)[:count].astype(np.float32))
    features = np.concatenate(parts)
    columns = np.full((len(features), 1), target)
    return rank_classes(features, columns, classifier, encoder.mesh)[:, 0] < 1


@partial(jax.jit, static_argnums=0)
def _features(
    model: CLIP,
    variables: Mapping[str, Any],
    images: UInt8[Array, "b s s 3"],
    perturbation: Float32[Array, "s s 3"],
) -> Float[Array, "b d"]:
    return features_of(model, variables, images, perturbation)
