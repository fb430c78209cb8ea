"""The light view of PAR (arXiv 2412.00727) inside a jitted step.

With one half chance each: noise that only brightens, and one erased square. Made in the step, of
float32 pictures, so that neither is rounded to grey levels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key, Num

from cleanclip_jax.views.normalise import MEAN

NOISE = 0.2  # the standard deviation, of values in [0, 1]
SHARES = (0.005, 0.01)  # of a picture's area, that the square takes


def lighten(images: Num[Array, "b s s 3"], keys: Key[Array, "b"]) -> Float32[Array, "b s s 3"]:
    """The light view of each picture, drawn from its key; values 0 to 255, in and out.

    The square has the mean colour, which is 0 once pictures are normalised.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        few, many = jax.random.split(key)
        draws = jax.random.uniform(few, (5,), jnp.float32)
        x = image.astype(jnp.float32)
        noisy = brighten(x, jax.random.normal(many, x.shape, jnp.float32))
        x = jnp.where(draws[0] < 0.5, noisy, x)
        top, left, side = square(draws[2:], len(x))
        y = jnp.arange(len(x), dtype=jnp.int32)
        rows, columns = ((y >= first) & (y < first + side) for first in (top, left))
        erased = (draws[1] < 0.5) & rows[:, None] & columns[None]
        return jnp.where(erased[..., None], 255 * jnp.asarray(MEAN)[None, None], x)

    return jax.vmap(one)(images, keys)


def brighten(
    x: Float32[Array, "s s 3"], normal: Float32[Array, "s s 3"]
) -> Float32[Array, "s s 3"]:
    """Adds noise, of which what would darken is left out; values 0 to 255."""
    return jnp.minimum(x + 255 * jnp.clip(NOISE * normal, 0, 1), 255)


def square(draws: Float32[Array, "3"], size: int) -> Int32[Array, "3"]:
    """Top, left and side of a square in a picture of `size`, of numbers drawn from [0, 1).

    Its area is uniform between two shares of the picture's, and of its places each as likely.
    """
    share = SHARES[0] + (SHARES[1] - SHARES[0]) * draws[0]
    side = jnp.round(size * jnp.sqrt(share)).astype(jnp.int32)
    place = jnp.floor(draws[1:] * (size - side + 1)).astype(jnp.int32)
    return jnp.append(jnp.minimum(place, size - side), side)
