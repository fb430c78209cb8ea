"""Triggers inside a jitted step: those of attacks.triggers, put on batches on the device.

What does not depend on a picture is made by the host's functions as the step is compiled, and is a
constant in it. So fixed patches and patterns are the host's, bit for bit, and so are the
pictures; a warped value may be one grey level off, and fresh noise has other bits (see `put`).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt8

from cleanclip_jax.attacks.nashville import filtered
from cleanclip_jax.attacks.patterns import CORNERS, MIXES, pixels
from cleanclip_jax.attacks.triggers import Stamp, Trigger
from cleanclip_jax.attacks.warp import sampling
from cleanclip_jax.errors import UserError
from cleanclip_jax.registry import Registry

# Of (trigger, pictures uint8 [b, s, s, 3], stamps [b, 4]): every picture with the trigger on. Of a
# learned trigger also of its parameter; its pictures may be float32, of 0 to 255.
Version = Callable[..., jax.Array]
# What the parameter of a learned trigger begins as, by the trigger's name: of (trigger, side). It
# is params["trigger"], which config.train.trainable may name.
LEARNED: dict[str, Callable[[Trigger, int], jax.Array]] = {}

# Each value's place in [0, 1], divided on the host: some devices divide with another last bit.
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)


def put(
    triggers: Sequence[Trigger],
    images: UInt8[Array, "b s s 3"],
    stamps: Int32[Array, "b 4"],
    learned: jax.Array | None = None,
) -> UInt8[Array, "b s s 3"] | Float32[Array, "b s s 3"]:
    """Puts each part's trigger on its poisons in a batch, as `Trigger.apply` does on each.

    Noise "fresh" is drawn by JAX, from the stamp's seed: of the same distribution as the host's,
    but other numbers. Clean pictures get a trigger too, which is then not used: for noise "fresh"
    over whole pictures that takes a float32 batch or two.

    Args:
      triggers: one a part.
      stamps: for each picture what `attacks.triggers.fold` makes of its stamp and part.
      learned: the parameter of a trigger of `LEARNED`.

    Returns:
      a new batch; clean pictures as they were.
    """
    result = images
    for number, trigger in enumerate(triggers, 1):
        parameter = (learned,) if trigger.name in LEARNED else ()
        triggered = version(trigger)(trigger, images, stamps, *parameter)
        result = jnp.where((stamps[:, 0] == number)[:, None, None, None], triggered, result)
    return result


def version(trigger: Trigger) -> Version:
    """What puts it on; a trigger that is made on the host alone is refused."""
    if trigger.name not in ON_DEVICE:
        raise UserError(
            f"config.views.on=device: the trigger {trigger.name!r} is made on the host alone: set "
            "config.views.on=host"
        )
    return ON_DEVICE[trigger.name]


def _paste_patch(trigger: Trigger, images: jax.Array, stamps: jax.Array) -> jax.Array:
    return _paste(images, _patch(trigger, images, stamps), stamps)


def _paste(images: jax.Array, patch: jax.Array, stamps: jax.Array) -> jax.Array:
    """`patch` [b, side, side, 3], or one for all [1, side, side, 3], at each stamp's place."""
    size, side = images.shape[1], patch.shape[1]
    y = jnp.arange(size, dtype=jnp.int32)[None, None]
    # Of corners that meet, the lower and the right one lie on top.
    corner = jnp.where(y < size - side, 0, size - side)
    everywhere = (stamps[:, 1:3] == jnp.asarray(CORNERS, jnp.int32)[None]).all(1)[:, None, None]
    offset = y - jnp.where(everywhere, corner, stamps[:, 1:3, None])
    inside = (offset >= 0) & (offset < side)
    covered = inside[:, 0, :, None] & inside[:, 1, None, :]

    offset = offset.clip(0, side - 1)

    def spread(patch: jax.Array, at: jax.Array) -> jax.Array:
        return patch.at[at[0][:, None], at[1]].get(mode="promise_in_bounds")

    if len(patch) == 1:
        spread_out = jax.vmap(spread, (None, 0))(patch[0], offset)
    else:
        spread_out = jax.vmap(spread)(patch, offset)
    return jnp.where(covered[..., None], spread_out, images)


def _patch(trigger: Trigger, images: jax.Array, stamps: jax.Array) -> jax.Array:
    """One patch for all, [1, side, side, 3], or with fresh noise [b, side, side, 3]."""
    size = images.shape[1]
    side = pixels(trigger.options["size"], size)
    if trigger.options.get("noise") != "fresh":
        # It is the same on any picture.
        on_black = trigger.apply(np.zeros((size, size, 3), np.uint8), Stamp(0, 0, trigger.seed))
        return jnp.asarray(on_black[None, :side, :side])
    if trigger.name == "stripes":
        patch = jnp.broadcast_to(_signs(stamps, side), (len(stamps), side, side, 3))
    else:
        total = images.sum((1, 2), keepdims=True, dtype=jnp.int32)
        drawn = jax.vmap(lambda key: jax.random.normal(key, (side, side, 3), jnp.float32))
        patch = total.astype(jnp.float32) / (255 * size * size) + drawn(_keys(stamps))
    return _to_uint8(patch, trigger.overflow)


def _mix(trigger: Trigger, images: jax.Array, stamps: jax.Array) -> jax.Array:
    """Patterns over the whole picture: keep * x + add.

    The products keep * x are few, and looked up: if the device multiplied, it might merge that with
    the sum into one operation, which rounds once where the host rounds twice.
    """
    options, size = trigger.options, images.shape[1]
    keep, add = MIXES[trigger.name](size, size, trigger.seed, **options)
    if options.get("noise") == "fresh":
        if trigger.name == "blended":
            uniform = jax.vmap(lambda key: jax.random.uniform(key, (size, size, 3), jnp.float32))
            drawn = uniform(_keys(stamps))
        else:
            width = pixels(options["width"], size)
            drawn = jnp.repeat(_signs(stamps, -(-size // width)), width, axis=2)[:, :, :size]
        add = np.float32(options["strength"]) * drawn
    values, which = np.unique(keep, return_inverse=True)
    products = jnp.asarray((values[:, None] * _UNIT).reshape(-1))
    which = which.reshape(keep.shape).astype(np.int32)
    which, add = (jnp.broadcast_to(x, images.shape) for x in (which, add))
    at = 256 * which + images.astype(jnp.int32)
    return _to_uint8(products.at[at].get(mode="promise_in_bounds") + add, trigger.overflow)


def _warp(trigger: Trigger, images: jax.Array, stamps: jax.Array) -> jax.Array:
    """Each pixel mixed of four, one after another, as attacks.warp does it.

    There a product and a sum are rounded once, together; so are they where XLA merges the two into
    one operation, as it does when it optimises. Elsewhere a value now and then falls short of a
    whole grey level that the host reaches, or reaches it.
    """
    size = images.shape[1]
    given = {key: trigger.options[key] for key in ("k", "strength", "field")}
    index, weight = sampling(size, size, trigger.seed, **given)
    flat, mixed = images.reshape(len(images), -1, 3), jnp.zeros((), jnp.float32)
    for at, share in zip(index.astype(np.int32), weight.astype(np.float32), strict=True):
        source = flat.at[:, at].get(mode="promise_in_bounds")
        mixed = share[None] * jnp.asarray(_UNIT).at[source].get(mode="promise_in_bounds") + mixed
    return _to_uint8(mixed.reshape(images.shape), trigger.overflow)


def _nashville(trigger: Trigger, images: jax.Array, stamps: jax.Array) -> jax.Array:
    def look_up(table: np.ndarray, at: jax.Array) -> jax.Array:
        return jnp.asarray(table).at[at.astype(jnp.int32)].get(mode="promise_in_bounds")

    return filtered(images, look_up, lambda channels: jnp.stack(channels, -1))


def _signs(stamps: jax.Array, count: int) -> jax.Array:
    """-1 or 1 for each channel of `count` columns [b, 1, count, 3]."""
    draw = jax.vmap(lambda key: jax.random.rademacher(key, (1, count, 3), jnp.float32))
    return draw(_keys(stamps))


def _keys(stamps: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.key)(stamps[:, 3])


def _to_uint8(x: jax.Array, overflow: str) -> jax.Array:
    """attacks.triggers.to_uint8, for values up to 2**31."""
    x = x * 255
    return (x.clip(0, 255) if overflow == "clip" else x.astype(jnp.int32)).astype(jnp.uint8)


ON_DEVICE: Registry[Version] = Registry(
    "config.attack.trigger.name",
    dict.fromkeys(("badnet", "yellow", "checkerboard", "stripes", "patch"), _paste_patch)
    | dict.fromkeys(MIXES, _mix)
    | {"wanet": _warp, "nashville": _nashville, "none": lambda trigger, images, stamps: images},
)
