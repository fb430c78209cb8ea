"""The light view of PAR (arXiv 2412.00727) inside a jitted step.

With one half chance each: noise that only brightens, and one erased square. Made in the step, of
float32 pictures, so that neither is rounded to grey levels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Key, Num

from cleanclip_jax.views.normalise import MEAN

NOISE = 0.2  # the standard deviation, of values in [0, 1]
SHARES = (0.005, 0.01)  # of a picture's area, that the square takes


def lighten(images: Num[Array, "b s s 3"], keys: Key[Array, "b"]) -> Float32[Array, "b s s 3"]:
    """The light view of each picture, drawn from its key; values 0 to 255, in and out.

    The square has the mean colour, which is 0 once pictures are normalised.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        coins, noise, place = jax.random.split(key, 3)
        noisy, erased = jax.random.bernoulli(coins, 0.5, (2,))
        x = image.astype(jnp.float32)
        x = jnp.where(noisy, brighten(x, jax.random.normal(noise, x.shape, jnp.float32)), x)
        y = jnp.arange(len(x), dtype=jnp.int32)
        top, left, side = square(place, len(x))
        rows, columns = ((y >= first) & (y < first + side) for first in (top, left))
        covered = (rows[:, None] & columns[None])[..., None]
        return jnp.where(erased & covered, 255 * jnp.asarray(MEAN)[None, None], x)

    return jax.vmap(one)(images, keys)


def brighten(
    x: Float32[Array, "s s 3"], normal: Float32[Array, "s s 3"]
) -> Float32[Array, "s s 3"]:
    """Adds noise, of which what would darken is left out; values 0 to 255."""
    return jnp.minimum(x + 255 * jnp.clip(NOISE * normal, 0, 1), 255)


def square(key: Key[Array, ""], size: int) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
    """Draws a square in a picture of `size`: top, left and side; of its places each as likely."""
    area, place = jax.random.split(key)
    share = jax.random.uniform(area, (), jnp.float32, *SHARES)
    side = jnp.round(size * jnp.sqrt(share)).astype(jnp.int32)
    top, left = jax.random.randint(place, (2,), 0, size - side + 1, jnp.int32)
    return top, left, side
