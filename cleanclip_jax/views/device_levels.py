"""Ops that look each value of a picture up in a table, some of them made of its histogram.

Equal to those of views.autoaugment, bit for bit, in int32 alone: no backend's rounding matters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt8

_VALUES = np.arange(256)


def histogram(images: UInt8[Array, "b h w 3"]) -> Int32[Array, "b 3 256"]:
    """Counts each value in each channel of each picture.

    A CPU scatters ones: one visit a value. Elsewhere each of the 256 counts is a sum over a
    comparison, which XLA fuses so that nothing of [.., 256] is stored and no thread waits for
    another, as happens when many equal values are scattered.
    """
    return lax.platform_dependent(images, cpu=scattered, default=compared)


def scattered(images: UInt8[Array, "b h w 3"]) -> Int32[Array, "b 3 256"]:
    """`histogram` by scattering."""

    def one(image: jax.Array) -> jax.Array:
        at = image.astype(jnp.int32) + 256 * jnp.arange(3)[None, None]
        counts = jnp.zeros(3 * 256, jnp.int32).at[at.reshape(-1)]
        return counts.add(1, mode="promise_in_bounds").reshape(3, 256)

    return jax.vmap(one)(images)


def compared(images: UInt8[Array, "b h w 3"]) -> Int32[Array, "b 3 256"]:
    """`histogram` by comparing."""
    pixels = images.reshape(images.shape[0], -1, 3, 1)
    return jnp.sum(
        pixels == jnp.arange(256, dtype=jnp.uint8)[None, None, None], axis=1, dtype=jnp.int32
    )


def look_up(
    images: UInt8[Array, "b h w 3"], tables: UInt8[Array, "b 3 256"]
) -> UInt8[Array, "b h w 3"]:
    """Replaces each value by its picture's and channel's entry."""

    def one(image: jax.Array, table: jax.Array) -> jax.Array:
        at = image.astype(jnp.int32) + 256 * jnp.arange(3)[None, None]
        return table.reshape(-1).at[at].get(mode="promise_in_bounds")

    return jax.vmap(one)(images, tables)


def equalize(histogram: Int32[Array, "b 3 256"]) -> UInt8[Array, "b 3 256"]:
    """The tables of Equalize."""
    _, high = _ends(histogram)
    at_high = jnp.take_along_axis(histogram, high, axis=2)
    step = _over(histogram.sum(2, keepdims=True, dtype=jnp.int32) - at_high, 255)
    below = jnp.cumsum(histogram, axis=2, dtype=jnp.int32) - histogram
    even = _over(_over(step, 2) + below, jnp.maximum(step, 1)).clip(0, 255)
    # Of one value, or with few pixels of any other: it stays as it is.
    return jnp.where(step > 0, even, _VALUES).astype(jnp.uint8)


def autocontrast(histogram: Int32[Array, "b 3 256"]) -> UInt8[Array, "b 3 256"]:
    """The tables of AutoContrast: v from [low, high] to [0, 255].

    The host cuts fractions off v * scale - low * scale, in float64. Where the true value is whole,
    its rounding errors may leave it a grey level lower; here those errors are read from a table.
    """
    low, high = _ends(histogram)
    span = high - low
    whole = 255 * (jnp.arange(256, dtype=jnp.int32)[None, None] - low)
    true = _over(whole, jnp.maximum(span, 1))
    products = jnp.asarray(_PRODUCTS)[span[:, :, 0]]
    error = products - jnp.take_along_axis(products, low, axis=2)
    # The difference is rounded too: back to `true`, if it is by half a place or less below.
    lost = (error < 0) & (-2 * error > jnp.asarray(_PLACES)[true.clip(0, 255)])
    short = (true * span == whole) & lost
    stretched = (true - short).clip(0, 255)
    return jnp.where(span > 0, stretched, _VALUES).astype(jnp.uint8)


def _over(a: jax.Array, b: jax.Array | int) -> jax.Array:
    """a // b for a >= 0, without what `//` does for the others: it is done often."""
    return lax.div(*jnp.broadcast_arrays(a, jnp.asarray(b, jnp.int32)))


def _ends(histogram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The lowest and the highest value that occur, each [b, 3, 1]."""
    occurs = histogram > 0
    low = jnp.argmax(occurs, axis=2, keepdims=True).astype(jnp.int32)
    high = 255 - jnp.argmax(occurs[:, :, ::-1], axis=2, keepdims=True).astype(jnp.int32)
    return low, high


def _products() -> np.ndarray:
    """v * (255 / span) as float64 rounds it, for span and v [256, 256]: in units of 2**-52, which
    hold it exactly, its lowest 32 bits. Differences of two that are about whole survive in them."""
    rounded = _VALUES * (255.0 / np.maximum(_VALUES, 1))[:, None]
    units = ((rounded - np.floor(rounded)) * 2.0**52).astype(np.int64)
    return units.astype(np.uint32).view(np.int32)


_PRODUCTS = _products()
# How far apart float64 lie right below each whole number, in units of 2**-52; below 1 it is less
# than one such unit, which is 0 here.
_PLACES = np.array([0, 0, *(1 << int(v - 1).bit_length() - 1 for v in range(2, 256))], np.int32)
