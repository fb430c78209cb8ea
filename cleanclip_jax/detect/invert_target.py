"""Inverts the trigger of a target class and finds the units that it drives, for `cleanclip invert`.

InverTune's first two jobs (arXiv 2506.12411), on clean pictures that no figure is measured on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from cleanclip_jax.detect import decree
from cleanclip_jax.detect.caption_patches import caption_patches
from cleanclip_jax.detect.inversion import (
    INVERTUNE,
    WEIGHTS,
    Inversion,
    Params,
    Put,
    begin,
    given_target,
    in_range,
    optimise,
    pad_rows,
)
from cleanclip_jax.detect.scored import Pictures, Scored, as_they_are, patched
from cleanclip_jax.detect.units import critical_units, impacts, largest
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.blocks import at_least_float32
from cleanclip_jax.models.clip import CLIP, encode_image_layers

CANDIDATES = 20  # classes, to each of which a patch is searched
TARGETS = 64  # pictures of the target that stand for it, at most


@dataclass(frozen=True)
class Settings:
    """How a trigger is inverted.

    Attributes:
      batch: pictures a step.
      steps: of the inversion.
      search: steps of each patch by which a target is found.
      rate: of Adam, in the inversion.
      layers: those of the largest impacts, whose critical units are found.
    """

    batch: int = 64
    steps: int = 1000
    search: int = 300
    rate: float = 0.01
    layers: int = 3
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))


@dataclass(frozen=True)
class Target:
    """A target class, and how it came to be one.

    Attributes:
      shares: where it was looked for: the smallest patch to each candidate, by class, as a share of
        the picture; None of a class that no patch takes pictures to.
    """

    index: int
    shares: Mapping[int, float | None] | None = None


@dataclass(frozen=True)
class Result:
    """What was found of a model.

    Attributes:
      landing: the share of the pictures of other classes that the trigger takes to the target.
      pictures: of other classes, and of the target.
      impact: of each layer.
      critical: units of the layers of the largest impacts.
    """

    target: Target
    mask: Float32[np.ndarray, "s s 3"]
    pattern: Float32[np.ndarray, "s s 3"]
    landing: float
    pictures: tuple[int, int]
    impact: Mapping[str, float]
    critical: Mapping[str, np.ndarray]


def find_target(model: Scored, pictures: Pictures, clean: np.ndarray, settings: Settings) -> Target:
    """The class that the smallest patch takes pictures to.

    Among many classes, those whose share grows most under a universal patch are tried, which
    DECREE's search makes. The original takes the one that grows most under a patch that it does not
    ship; on the demo, with a patch of ours, that was another class than the attack's.

    Args:
      clean: the class that each picture is taken for.
    """
    count, batch = len(model.classifier.names), model.encoder.rows(settings.batch)
    candidates = np.arange(count)
    if count > CANDIDATES:
        patch = decree.smallest_patch(model, pictures, settings.search, seed=settings.seed)
        on = {"mask": jnp.asarray(patch.mask), "pattern": jnp.asarray(patch.pattern)}
        units = model.units(Inversion(model.encode, patched, {}), on, pictures, batch)
        shares = [np.bincount(x, minlength=count) for x in (model.predicted(units)[0], clean)]
        candidates = np.argsort(shares[1] - shares[0], kind="stable")[:CANDIDATES]
    texts, tried = model.classifier.weights, candidates.tolist()
    patches = caption_patches(model, texts, tried, pictures, settings.search, seed=settings.seed)
    smallest = {index: patch.share for index, patch in zip(tried, patches, strict=True)}
    there = {index: share for index, share in smallest.items() if share is not None}
    if not there:
        raise UserError(
            f"no patch takes pictures to any of {len(tried)} classes within {settings.search} "
            "steps: give more with --search, or name one with --target"
        )
    return Target(min(there, key=lambda index: there[index]), smallest)


def invert_target(
    model: Scored, pictures: Pictures, settings: Settings, target: int | None = None
) -> Result:
    """Inverts a target's trigger on clean pictures, and finds the layers and units it drives.

    Pictures that the model takes for the target stand for it, the surest first, and the others
    bear the trigger.

    Args:
      target: its class; None: it is found first.
    """
    encoder, batch = model.encoder, model.encoder.rows(settings.batch)
    plain = Inversion(model.encode, as_they_are, {})
    clean, scores = model.predicted(units := model.units(plain, {}, pictures, batch))
    chosen = Target(target) if target is not None else find_target(model, pictures, clean, settings)
    name, of_target = model.classifier.names[chosen.index], clean == chosen.index
    if not of_target.any() or of_target.all():
        few = "none" if not of_target.any() else "each"
        raise UserError(
            f"{few} of {len(pictures)} clean pictures is taken for the target {name!r}, and the "
            "inversion needs some that are and some that are not: give more with --pictures, or "
            "another config.data.train"
        )
    surest = np.flatnonzero(of_target)[np.argsort(-scores[of_target, chosen.index], kind="stable")]
    others = pictures[~of_target]
    inversion = Inversion(model.encode, model.put, INVERTUNE, in_range)
    given = given_target(
        model.classifier.weights, chosen.index, pad_rows(units[surest[:TARGETS]], batch)
    )
    params, _ = optimise(
        inversion,
        encoder.variables,
        begin(jax.random.key(settings.seed), pictures.shape[1]),
        map(model.place, _batches(others, batch, settings)),
        given,
        settings.weights,
        settings.rate,
    )
    landed, _ = model.predicted(model.units(inversion, params, others, batch))
    means = _layer_means(model, params, others, batch)
    impact = impacts(means["clean"], means["triggered"])
    critical = {
        layer: critical_units(means["clean"][layer], means["triggered"][layer])
        for layer in largest(impact, settings.layers)
    }
    return Result(
        chosen,
        np.asarray(params["mask"], np.float32),
        np.asarray(params["pattern"], np.float32),
        float((landed == chosen.index).mean()),
        (len(others), int(of_target.sum())),
        impact,
        critical,
    )


def _batches(pictures: Pictures, batch: int, settings: Settings) -> Iterator[Pictures]:
    """So many steps' batches, in an order of each epoch's own."""
    enough = pad_rows(pictures, max(len(pictures), batch))
    for epoch in decree.epochs_of(enough, batch, settings.steps, settings.seed):
        yield from epoch


def _layer_means(
    model: Scored, params: Params, pictures: Pictures, batch: int
) -> dict[str, dict[str, np.ndarray]]:
    """Mean activations of each layer without and with the trigger, over whole batches."""
    whole = pad_rows(pictures, max(len(pictures) // batch, 1) * batch)
    parts = [
        _means(model.encoder.model, model.put, model.encoder.variables, params, model.place(images))
        for images in whole.reshape(-1, batch, *whole.shape[1:])
    ]
    return jax.tree.map(lambda *x: np.mean(np.stack(x), 0, np.float64), *jax.device_get(parts))


@partial(jax.jit, static_argnums=(0, 1))
def _means(
    tower: CLIP, put: Put, variables: Any, params: Params, images: jax.Array
) -> dict[str, dict[str, jax.Array]]:
    shown, dtype = put(params, images), tower.compute.dtype
    both = {"clean": shown.clean, "triggered": shown.triggered}
    return {
        kind: {
            name: at_least_float32(layer).mean(0)
            for name, layer in encode_image_layers(tower, variables, x.astype(dtype))[1].items()
        }
        for kind, x in both.items()
    }
