"""InverTune's tuning terms (arXiv 2506.12411): triggered pictures become as clean ones inside.

The trigger and the units that it drives come from `cleanclip invert`. The original tunes on one
fixed batch; here each step has a batch of its own, and the image tower's running statistics see the
clean pictures alone ("inverted trigger" in docs/fidelity.md).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cleanclip_jax.losses.inverted import Inverted
from cleanclip_jax.losses.terms import Artefact, Context, Memory, Term


def norm(x: jax.Array) -> Float[Array, ""]:
    """The Euclidean norm of all elements, whose gradient at 0 is 0 and not NaN."""
    squared = jnp.square(x).sum()
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def align(c: Context, inverted: str) -> tuple[jax.Array, Memory]:
    """How far the trigger moves the critical units, as a share of their norm, summed over layers.

    Of the batch's mean activations.

    Args:
      inverted: the folder of `cleanclip invert`.
    """
    total = jnp.zeros((), c.features["image"].dtype)
    for name, critical in c.artefact["critical"].items():
        clean, triggered = (c.layers[kind][name].mean(0) for kind in ("clean", "triggered"))
        moved = norm(jnp.where(critical, clean - triggered, 0))
        total = total + moved / jnp.maximum(norm(jnp.where(critical, clean, 0)), 1e-12)
    return total, None


def preserve(c: Context) -> tuple[jax.Array, Memory]:
    """How far the pictures' embeddings are from the frozen start's: a norm over the batch."""
    return norm(c.units["image"] - c.units["image_start"]), None


def put_on(arrays: Any, images: Float[Array, "b s s 3"]) -> Float[Array, "b s s 3"]:
    """Normalised pictures with the inverted trigger on: m t + (1 - m) x."""
    mask, pattern = (arrays[name][None].astype(images.dtype) for name in ("mask", "pattern"))
    return mask * pattern + (1 - mask) * images


def _opened(inverted: str) -> Artefact:
    one = Inverted.load(inverted)
    arrays = {"mask": one.mask, "pattern": one.pattern, "critical": one.critical}
    return Artefact(arrays, inverted, one.digest, one.facts["start"]["digest"])


ALIGN = Term(align, needs=frozenset({"layers"}), artefact=_opened, triggered=put_on)
PRESERVE = Term(preserve, needs=frozenset({"start"}))
