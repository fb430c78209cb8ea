"""An encoder that scores classes, as inversions use it: on pictures with a trigger."""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8

from cleanclip_jax.detect.inversion import Inversion, Params, Shown, mixed, pad_rows
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.models.clip import encode_image
from cleanclip_jax.sharding import place_batch
from cleanclip_jax.views.normalise import normalise

Pictures: TypeAlias = UInt8[np.ndarray, "n s s 3"]


@dataclass(frozen=True, eq=False)
class Tower:
    """An image encoder, as an inversion takes it."""

    encoder: Encoder

    @property
    def dtype(self) -> str:
        """Of the pictures that the encoder takes."""
        return str(jnp.dtype(self.encoder.model.compute.dtype))

    def encode(self, variables: Any, pictures: jax.Array) -> jax.Array:
        """Un-normalised features of pictures as an inversion has them."""
        return encode_image(self.encoder.model, variables, pictures.astype(self.dtype))

    def put(self, params: Params, images: jax.Array) -> Shown:
        """Mask and pattern on pictures of 0 to 255, which are normalised first."""
        return mixed(params, normalise(images))

    def place(self, images: Pictures) -> jax.Array:
        """A batch over the devices."""
        return place_batch(self.encoder.mesh, {"images": images})["images"]

    def units(
        self, inversion: Inversion, params: Params, pictures: Pictures, batch: int
    ) -> Float32[np.ndarray, "n d"]:
        """Unit embeddings of the pictures with a trigger on."""
        variables, rows = self.encoder.variables, []
        for start in range(0, len(pictures), batch):
            images = self.place(pad_rows(pictures[start : start + batch], batch))
            rows.append(np.asarray(_units(inversion, variables, params, images), np.float32))
        return np.concatenate(rows)[: len(pictures)]


@dataclass(frozen=True, eq=False)
class Scored(Tower):
    """An encoder with a classifier of the classes among which a target is."""

    classifier: Classifier

    def predicted(
        self, units: Float[np.ndarray, "n d"]
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n c"]]:
        """The class of each picture, and all scores."""
        scores = units @ self.classifier.weights.T
        return scores.argmax(1), scores


def patched(params: Params, images: jax.Array) -> Shown:
    """A patch whose mask and pattern are from 0 to 1, on pictures of 0 to 255."""
    mask, pattern = params["mask"][None, ..., None], 255 * params["pattern"][None]
    clean = images.astype(pattern.dtype)
    return Shown(mask[0], normalise(clean), normalise((1 - mask) * clean + mask * pattern))


def as_they_are(params: Params, images: jax.Array) -> Shown:
    """Pictures of 0 to 255 without a trigger."""
    shown = normalise(images)
    return Shown(jnp.zeros(()), shown, shown)


@partial(jax.jit, static_argnums=0)
def _units(
    inversion: Inversion, variables: Any, params: Params, images: jax.Array
) -> Float[Array, "b d"]:
    return normalise_rows(inversion.encode(variables, inversion.put(params, images).triggered))
