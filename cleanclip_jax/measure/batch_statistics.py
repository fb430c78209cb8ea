"""A ResNet's running statistics taken anew: for weights that no training has brought there."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading, Shown, batches_of
from cleanclip_jax.models.clip import CLIP, encode_image_train
from cleanclip_jax.record import Source
from cleanclip_jax.sharding import copied_over, split_over
from cleanclip_jax.start.combine import combined
from cleanclip_jax.views.normalise import normalise

# Pictures that are normalised by their common statistics, whatever the batch of an evaluation.
BATCH = 256
SHARE = 0.1  # of a batch's statistics in the new running ones


def drawn_pictures(
    source: Source, count: int, seed: int, size: int, reading: Reading
) -> UInt8[np.ndarray, "n b s s 3"]:
    """Batches of pictures of the source that `seed` draws, each at most once.

    Args:
      count: of pictures; fewer where the source has fewer or they can't be read, and, beyond a
        batch, as many as make whole ones.
      size: side of the pictures, in pixels.
      reading: its share of unreadable pictures holds.
    """
    indices = np.random.default_rng(seed).permutation(len(source))[:count]
    settings = replace(reading, batch_size=BATCH)
    with batches_of(Shown(source, indices), size, settings) as batches:
        pictures = np.concatenate([batch["images"] for batch in batches])
        unreadable = len(batches.unreadable)
    if unreadable > reading.max_bad_share * len(indices) or not len(pictures):
        raise UserError(
            f"{unreadable} of {len(indices)} pictures for the running statistics are unreadable, "
            "more than config.data.max_bad_share allows"
        )
    batch = min(BATCH, len(pictures))
    whole = len(pictures) // batch
    return pictures[: whole * batch].reshape(whole, batch, *pictures.shape[1:])


def fresh_statistics(encoder: Encoder, pictures: UInt8[np.ndarray, "n b s s 3"]) -> dict[str, Any]:
    """The batch statistics of a model's image tower over all pictures, {} without batch norm.

    Mean and unbiased variance of each batch, each layer seeing what the layers before it normalise
    by that batch, and of these the means: what training's running statistics would come to if the
    weights stood still.
    """
    before = encoder.variables.get("batch_stats", {})
    if not jax.tree.leaves(before):
        return {}
    model, mesh = encoder.model.computed(bn_groups=1, bn_frozen=False), encoder.mesh
    zeros = {**encoder.variables, "batch_stats": jax.tree.map(jnp.zeros_like, before)}
    even = pictures.shape[1] % mesh.devices.size == 0
    place = split_over(mesh) if even else copied_over(mesh)
    parts = [
        jax.device_get(_statistics(model, zeros, jax.device_put(images, place)))
        for images in pictures
    ]
    return combined([1 / (SHARE * len(parts))] * len(parts), parts)


@partial(jax.jit, static_argnums=0)
def _statistics(
    model: CLIP, variables: Mapping[str, Any], images: UInt8[Array, "b s s 3"]
) -> dict[str, Any]:
    pictures = normalise(images, str(jnp.dtype(model.compute.dtype)))
    return encode_image_train(model, variables, pictures)[1]
