"""AdamW with decay by role, and its schedules."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cleanclip_jax.errors import UserError

MAX_LOGIT_SCALE = 4.6052  # the published bound, about ln(100)


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, offset: int = 0
) -> optax.Schedule:
    """Linear warmup, then cosine decay to 0, where it stays.

    Args:
      peak: the highest rate, at step `warmup_steps - 1` (the first step is 0).
      warmup_steps: may be 0.
      total_steps: the rate is 0 from here on.
      offset: added to the step. The original counts epochs from 1 and so skips its first
        epoch's worth of steps, and its cosine rises again at the end ("steps from zero" in
        docs/fidelity.md): an offset of one epoch of steps restores both. There the cosine may
        begin past its end, and divides by the steps between warmup and end, though they be none.
    """
    decay = total_steps - warmup_steps
    if offset and not decay:
        raise UserError(
            f"config.optimizer.warmup_steps is {warmup_steps}, as many as the run has: with "
            "optimizer.schedule=original the cosine then divides by 0; set one more or less."
        )
    decay = decay if offset else max(decay, 1)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        # The accumulator is float32 at least; under x64 the tests compare in float64.
        step = jnp.asarray(step, jnp.result_type(float)) + offset
        warmup = peak * (step + 1) / max(warmup_steps, 1)
        progress = (step - warmup_steps) / decay
        if not offset:
            progress = jnp.minimum(progress, 1.0)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress)) * peak
        return jnp.where(step < warmup_steps, warmup, cosine)

    return schedule


def two_phase(
    first: float, middle: float, last: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """A line from `first` to `middle`, both included, then a cosine towards `last` (PAR's).

    The original counts one batch an epoch more than there are, so that its rates lag behind these
    by a step an epoch ("PAR's steps" in docs/fidelity.md).
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.result_type(float))
        line = first + (middle - first) * step / max(warmup_steps - 1, 1)
        progress = jnp.minimum((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        cosine = last + (middle - last) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, line, cosine)

    return schedule


def make_schedule(
    config: Mapping[str, Any], total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """The learning rate by step, as `config.optimizer` has it."""
    kind, peak, warmup = (config[key] for key in ("schedule", "learning_rate", "warmup_steps"))
    if 0 < warmup < 1:
        warmup = int(warmup * total_steps)
    first, last = config.get("first_rate"), config.get("last_rate")
    if kind == "two_phase" and first is not None and last is not None:
        return two_phase(first, peak, last, warmup, total_steps)
    if kind == "two_phase" or first is not None or last is not None:
        raise UserError(
            f"config.optimizer.schedule is {kind}, first_rate {first} and last_rate {last}: "
            "two_phase takes both, and the others neither"
        )
    offset = steps_per_epoch if kind == "original" else 0
    return warmup_cosine(peak, warmup, total_steps, offset)


def holding(schedule: optax.Schedule, first: int, end: int, rate: float) -> optax.Schedule:
    """A schedule, but for a constant rate from the step `first` until `end`."""

    def held(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        return jnp.where((step >= first) & (step < end), rate, schedule(step))

    return held


def decays(path: str, mask: str = "role", dimensions: int = 2) -> bool:
    """Whether weight decay touches the parameter at `path` ('visual/layer1_0/bn1/scale').

    By role, norms, biases and logit_scale are left alone. `original` also decays the scale of
    the downsampling norms, which the original's name filter misses ("decay mask"). `matrices`
    leaves vectors alone too, of which a vision transformer has its class embedding (PAR's).
    """
    if mask == "matrices" and dimensions < 2:
        return False
    if mask == "original" and path.endswith("downsample_bn/scale"):
        return True
    return path.rsplit("/", 1)[-1] not in ("scale", "bias", "logit_scale")


def named(path: tuple[Any, ...]) -> str:
    """A tree path as 'a/b/c'."""
    return "/".join(str(key.key) for key in path)


def make_optimizer(
    config: Mapping[str, Any],
    total_steps: int,
    steps_per_epoch: int,
    held: tuple[int, int, float] | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns AdamW and its schedule for `config.optimizer`.

    Args:
      held: steps (from, to) in which the rate is constant, and that rate.
    """
    schedule = make_schedule(config, total_steps, steps_per_epoch)
    if held is not None:
        schedule = holding(schedule, *held)

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: decays(named(path), config["decay_mask"], x.ndim), params
        )

    optimizer = optax.adamw(
        schedule,
        b1=config["beta1"],
        b2=config["beta2"],
        eps=config["epsilon"],
        weight_decay=config["weight_decay"],
        mask=mask,
    )
    return clipped(optimizer, config.get("clip_norm")), schedule


def clipped(
    optimizer: optax.GradientTransformation, most: float | None
) -> optax.GradientTransformation:
    """An optimizer that is given gradients of a norm of at most that; its state is the same."""
    if most is None:
        return optimizer
    clip = optax.clip_by_global_norm(most)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return optimizer.update(clip.update(updates, optax.EmptyState())[0], state, params)

    return optax.GradientTransformation(optimizer.init, update)
