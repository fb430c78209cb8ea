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
from jaxtyping import Array, Float, Float32, Int, UInt8

from cleanclip_jax.detect import decree, invert
from cleanclip_jax.detect.units import critical_units, impacts, largest
from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.models.blocks import at_least_float32
from cleanclip_jax.models.clip import CLIP, encode_image, encode_image_layers
from cleanclip_jax.sharding import place_batch
from cleanclip_jax.views.normalise import normalise

Pictures = UInt8[np.ndarray, "n s s 3"]
TARGETS = 64  # pictures of the target that stand for it, at most


@dataclass(frozen=True)
class Settings:
    """How a trigger is inverted.

    Attributes:
      batch: pictures a step.
      steps: of the inversion.
      search: steps of the universal patch by which a target is found.
      rate: of Adam, in the inversion.
      layers: those of the largest impacts, whose critical units are found.
    """

    batch: int = 64
    steps: int = 1000
    search: int = 300
    rate: float = 0.01
    layers: int = 3
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=lambda: dict(invert.WEIGHTS))


@dataclass(frozen=True, eq=False)
class Model:
    """An encoder with a classifier of the classes among which the target is."""

    encoder: Encoder
    classifier: Classifier

    @property
    def dtype(self) -> str:
        """Of the pictures that the encoder takes."""
        return str(jnp.dtype(self.encoder.model.compute.dtype))

    def encode(self, variables: Any, pictures: jax.Array) -> jax.Array:
        """Un-normalised features of pictures as an inversion has them."""
        return encode_image(self.encoder.model, variables, pictures.astype(self.dtype))

    def put(self, params: invert.Params, images: jax.Array) -> invert.Shown:
        """Mask and pattern on pictures of 0 to 255, which are normalised first."""
        return invert.mixed(params, normalise(images))

    def place(self, images: Pictures) -> jax.Array:
        """A batch over the devices."""
        return place_batch(self.encoder.mesh, {"images": images})["images"]

    def predicted(
        self, units: Float[np.ndarray, "n d"]
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n c"]]:
        """The class of each picture, and all scores."""
        scores = units @ self.classifier.weights.T
        return scores.argmax(1), scores

    def units(
        self, inversion: invert.Inversion, params: invert.Params, pictures: Pictures, batch: int
    ) -> Float32[np.ndarray, "n d"]:
        """Unit embeddings of the pictures with a trigger on."""
        variables, rows = self.encoder.variables, []
        for start in range(0, len(pictures), batch):
            images = self.place(invert.pad_rows(pictures[start : start + batch], batch))
            rows.append(np.asarray(_units(inversion, variables, params, images), np.float32))
        return np.concatenate(rows)[: len(pictures)]


@dataclass(frozen=True)
class Target:
    """A target class, and how it came to be one.

    Attributes:
      grown: where it was found: by how much each class's share grew under a universal patch.
    """

    index: int
    grown: Float[np.ndarray, " c"] | None = None


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


def find_target(model: Model, pictures: Pictures, clean: np.ndarray, settings: Settings) -> Target:
    """The class whose share grows most under a universal patch, which DECREE's search makes.

    The original loads a patch that it does not ship.

    Args:
      clean: the class that each picture is taken for.
    """
    inversion, rng = decree.objective(model.encode), jax.random.key(settings.seed)
    batch = model.encoder.rows(min(settings.batch // 2, max(len(pictures) // 2, 2)))
    params = decree.begin(rng, pictures.shape[1])
    epochs = decree.epochs_of(
        invert.pad_rows(pictures, max(len(pictures), batch)), batch, settings.search, settings.seed
    )
    placed = (map(model.place, epoch) for epoch in epochs)
    found = decree.search(inversion, model.encoder.variables, params, placed, decree.Rule())
    put_on = invert.Inversion(model.encode, _patched, {})
    patch = {"mask": jnp.asarray(found.mask), "pattern": jnp.asarray(found.pattern)}
    triggered, _ = model.predicted(model.units(put_on, patch, pictures, batch))
    count = len(model.classifier.names)
    grown = (np.bincount(triggered, minlength=count) - np.bincount(clean, minlength=count)) / len(
        pictures
    )
    return Target(int(grown.argmax()), grown)


def _patched(params: invert.Params, images: jax.Array) -> invert.Shown:
    """A patch whose mask and pattern are from 0 to 1, on pictures of 0 to 255."""
    mask, pattern = params["mask"][None, ..., None], 255 * params["pattern"][None]
    clean = images.astype(pattern.dtype)
    return invert.Shown(mask[0], normalise(clean), normalise((1 - mask) * clean + mask * pattern))


def invert_target(
    model: Model, pictures: Pictures, settings: Settings, target: int | None = None
) -> Result:
    """Inverts a target's trigger on clean pictures, and finds the layers and units it drives.

    Pictures that the model takes for the target stand for it, the surest first, and the others
    bear the trigger.

    Args:
      target: its class; None: it is found first.
    """
    encoder, batch = model.encoder, model.encoder.rows(settings.batch)
    plain = invert.Inversion(model.encode, _as_they_are, {})
    clean, scores = model.predicted(units := model.units(plain, {}, pictures, batch))
    found = Target(target) if target is not None else find_target(model, pictures, clean, settings)
    name, of_target = model.classifier.names[found.index], clean == found.index
    if not of_target.any() or of_target.all():
        few = "none" if not of_target.any() else "each"
        raise UserError(
            f"{few} of {len(pictures)} clean pictures is taken for the target {name!r}, and the "
            "inversion needs some that are and some that are not: give more with --pictures, or "
            "another config.data.train"
        )
    surest = np.flatnonzero(of_target)[np.argsort(-scores[of_target, found.index], kind="stable")]
    others = pictures[~of_target]
    inversion = invert.Inversion(model.encode, model.put, invert.INVERTUNE, invert.in_range)
    given = invert.given_target(
        model.classifier.weights, found.index, invert.pad_rows(units[surest[:TARGETS]], batch)
    )
    params, _ = invert.optimise(
        inversion,
        encoder.variables,
        invert.begin(jax.random.key(settings.seed), pictures.shape[1]),
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
        found,
        np.asarray(params["mask"], np.float32),
        np.asarray(params["pattern"], np.float32),
        float((landed == found.index).mean()),
        (len(others), int(of_target.sum())),
        impact,
        critical,
    )


def _batches(pictures: Pictures, batch: int, settings: Settings) -> Iterator[Pictures]:
    """So many steps' batches, in an order of each epoch's own."""
    enough = invert.pad_rows(pictures, max(len(pictures), batch))
    for epoch in decree.epochs_of(enough, batch, settings.steps, settings.seed):
        yield from epoch


def _as_they_are(params: invert.Params, images: jax.Array) -> invert.Shown:
    shown = normalise(images)
    return invert.Shown(jnp.zeros(()), shown, shown)


@partial(jax.jit, static_argnums=0)
def _units(
    inversion: invert.Inversion, variables: Any, params: invert.Params, images: jax.Array
) -> Float[Array, "b d"]:
    return normalise_rows(inversion.encode(variables, inversion.put(params, images).triggered))


def _layer_means(
    model: Model, params: invert.Params, pictures: Pictures, batch: int
) -> dict[str, dict[str, np.ndarray]]:
    """Mean activations of each layer without and with the trigger, over whole batches."""
    whole = invert.pad_rows(pictures, max(len(pictures) // batch, 1) * batch)
    parts = [
        _means(model.encoder.model, model.put, model.encoder.variables, params, model.place(images))
        for images in whole.reshape(-1, batch, *whole.shape[1:])
    ]
    return jax.tree.map(lambda *x: np.mean(np.stack(x), 0, np.float64), *jax.device_get(parts))


@partial(jax.jit, static_argnums=(0, 1))
def _means(
    tower: CLIP, put: invert.Put, variables: Any, params: invert.Params, images: jax.Array
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
