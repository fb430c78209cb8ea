"""AutoAugment inside a jitted step: the policy of views.autoaugment, on batches on the device.

Every op equals the host's, bit for bit, so that a view may be made at either place. Pictures of
one batch undergo different ops, so no branch is taken: each slot (the first step, the second) is
one gather, one look-up and one blend for the whole batch, of which all but one leave a picture as
it is. What no entry of a slot needs is not compiled. Pictures are independent along the batch axis,
which shards freely. The largest intermediate is where each pixel comes from: an int32 a pixel, as
much as one more batch of uint8 pictures.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, Key, UInt8

from cleanclip_jax.views import autoaugment as host
from cleanclip_jax.views import device_levels as levels

# An op and its signed magnitude, in the unit of views.autoaugment.magnitude().
Entry = tuple[str, float]
NOTHING: Entry = ("", 0.0)

_COUNTED = {"AutoContrast": levels.autocontrast, "Equalize": levels.equalize}


def augment(images: UInt8[Array, "b h w 3"], keys: Key[Array, "b"]) -> UInt8[Array, "b h w 3"]:
    """Applies one of the 25 sub-policies to each picture, drawn from the picture's key.

    As views.autoaugment.autoaugment does from NumPy's generator: the same distribution.
    """
    return apply_ops(images, draw(keys), policy_entries(*images.shape[1:3]))


def draw(keys: Key[Array, "b"]) -> Int32[Array, "b 2"]:
    """Draws for each picture its entry of `policy_entries` in both slots, 0 where none applies."""
    chances = jnp.asarray([[step.chance for step in steps] for steps in host.POLICY], jnp.float32)

    def one(key: jax.Array) -> jax.Array:
        which, chance, sign = jax.random.split(key, 3)
        row = jax.random.randint(which, (), 0, len(host.POLICY), jnp.int32)
        applied = jax.random.uniform(chance, (2,), jnp.float32) < chances[row]
        positive = jax.random.randint(sign, (2,), 0, 2, jnp.int32)
        return jnp.where(applied, 1 + 2 * row + positive, 0)

    return jax.vmap(one)(keys)


def policy_entries(height: int, width: int) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """What either slot may do: nothing, then each sub-policy's step, negative and positive."""

    def slot(number: int) -> tuple[Entry, ...]:
        entries = [NOTHING]
        for steps in host.POLICY:
            op, _, level = steps[number]
            size = host.magnitude(op, level, height, width)
            entries += [(op, -size if op in host.SIGNED else size), (op, size)]
        return tuple(entries)

    return slot(0), slot(1)


def apply_ops(
    images: UInt8[Array, "b h w 3"], slots: Int32[Array, "b n"], entries: Sequence[Sequence[Entry]]
) -> UInt8[Array, "b h w 3"]:
    """Applies to each picture one op a slot, one after another.

    Args:
      slots: for each picture, which of a slot's entries.
      entries: for each slot, what there is to choose from.
    """
    for number, choices in enumerate(entries):
        images = _apply(images, slots[:, number], choices)
    return images


def _apply(images: jax.Array, chosen: jax.Array, entries: Sequence[Entry]) -> jax.Array:
    """One slot. An entry that is of another kind leaves each pass's picture as it is."""
    used = {op for op, _ in entries}
    if unknown := used - {NOTHING[0], *host.MOVES, *host.FIXED, *_COUNTED, *host.BLENDS}:
        raise ValueError(f"no such op: {', '.join(sorted(unknown))}")
    height, width = images.shape[1:3]
    if used & host.MOVES:
        inverses = [_fixed_point(host.inverse(op, size, height, width)) for op, size in entries]
        images = _once(_move(images, jnp.asarray(np.array(inverses, np.int32))[chosen]))
    if used & (host.FIXED | set(_COUNTED)):
        images = _once(levels.look_up(images, _tables(images, chosen, entries)))
    if used & host.BLENDS:
        images = _once(_blend(images, chosen, entries))
    return images


def _once(array: jax.Array) -> jax.Array:
    """Prevents XLA from rematerialising a result for each use: for a pixel's table its picture's
    whole histogram, for a smoothed pixel nine moved ones. A CPU's XLA ignores it; large views are
    made faster on the host there."""
    return lax.optimization_barrier(array)


def _fixed_point(inverse: tuple[float, ...]) -> list[int]:
    """An inverse in units of 2**-16, taken at the middle of a pixel, rounded where Pillow rounds.

    Exact as long as no pixel comes from 32768 or more pixels away.
    """
    a, b, c, d, e, f = inverse
    whole = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    return [math.floor(v * 65536 + 0.5) for v in whole]


def _move(images: jax.Array, inverse: jax.Array) -> jax.Array:
    """The nearest source of each pixel, black where that is outside; `inverse` [b, 6]."""
    height, width = images.shape[1:3]
    x = jnp.arange(width, dtype=jnp.int32)[None, None]
    y = jnp.arange(height, dtype=jnp.int32)[None, :, None]
    a = inverse[:, :, None, None]
    column = (a[:, 0] * x + a[:, 1] * y + a[:, 2]) >> 16
    row = (a[:, 3] * x + a[:, 4] * y + a[:, 5]) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = jnp.where(inside, row * width + column, 0)

    def one(image: jax.Array, at: jax.Array) -> jax.Array:
        return image.reshape(-1, 3).at[at].get(mode="promise_in_bounds")

    return jnp.where(inside[..., None], jax.vmap(one)(images, source), jnp.uint8(0))


def _tables(images: jax.Array, chosen: jax.Array, entries: Sequence[Entry]) -> jax.Array:
    """For each picture what its values become [b, 3, 256]."""
    rows = jnp.asarray(np.array([host.value_table(op, size) for op, size in entries], np.uint8))
    tables = jnp.broadcast_to(rows[chosen][:, None], (len(images), 3, 256))
    ops = [op for op, _ in entries]
    if counted := _COUNTED.keys() & set(ops):
        counts = levels.histogram(images)
        for op in sorted(counted):
            of_op = jnp.asarray(np.array([o == op for o in ops]))[chosen]
            tables = jnp.where(of_op[:, None, None], _COUNTED[op](counts), tables)
    return _once(tables)


def _blend(images: jax.Array, chosen: jax.Array, entries: Sequence[Entry]) -> jax.Array:
    """Between a lesser picture and the picture, or past it: lesser + factor * (picture - lesser).

    In float32 as Pillow does it, with two roundings. XLA may merge a product and a sum into one
    operation with one rounding, so the factor is split in two whose products are exact: their sum
    is rounded once, merged or not. With factor 1 a picture stays as it is.
    """
    ops = [op for op, _ in entries]
    factors = np.array([1 + size if op in host.BLENDS else 1 for op, size in entries], np.float32)
    # 12 of the 24 bits of a float32; a difference of two pictures has 8, and a sign.
    coarse = (factors.view(np.int32) & ~0xFFF).view(np.float32)
    coarse, fine = (
        jnp.asarray(part)[chosen, None, None, None] for part in (coarse, factors - coarse)
    )
    x = images.astype(jnp.int32)
    lesser = jnp.zeros_like(x)
    for op, picture in (("Color", _grey), ("Contrast", _mean), ("Sharpness", _smooth)):
        if op in ops:
            of_op = jnp.asarray(np.array([o == op for o in ops]))[chosen]
            lesser = jnp.where(of_op[:, None, None, None], picture(x), lesser)
    difference = (x - lesser).astype(jnp.float32)
    change = coarse * difference + fine * difference
    return (lesser.astype(jnp.float32) + change).clip(0, 255).astype(jnp.uint8)


def _grey(x: jax.Array) -> jax.Array:
    """The luminance [b, h, w, 1], by Pillow's whole-numbered weights."""
    return (x[..., :1] * 19595 + x[..., 1:2] * 38470 + x[..., 2:] * 7471 + 0x8000) >> 16


def _mean(x: jax.Array) -> jax.Array:
    """The mean luminance, rounded [b, 1, 1, 1]; pictures of 2000 x 2000 pixels fit in int32."""
    count = x.shape[1] * x.shape[2]
    total = _grey(x).sum((1, 2, 3), keepdims=True, dtype=jnp.int32)
    return lax.div(2 * total + count, np.int32(2 * count))


def _smooth(x: jax.Array) -> jax.Array:
    """Each pixel 5 times and its eight neighbours, over 13, rounded; the border stays."""
    if min(x.shape[1:3]) < 3:
        return x
    across = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    around = across[:, :-2] + across[:, 1:-1] + across[:, 2:]
    # Never halfway between two: 13 is odd.
    inner = lax.div(2 * (around + 4 * x[:, 1:-1, 1:-1]) + 13, np.int32(26))
    inside = np.zeros((*x.shape[1:3], 1), bool)
    inside[1:-1, 1:-1] = True
    return jnp.where(inside, jnp.pad(inner, ((0, 0), (1, 1), (1, 1), (0, 0))), x)
