"""DECREE (CVPR 2023): does an image encoder carry a backdoor?

A universal patch is optimised that brings the features of whatever picture it is on together, and
its size weighed more or less as that succeeds. Small is suspicious: its figure means nothing alone,
but beside the same of a clean model of that architecture. Neither text nor labels are used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cleanclip_jax.detect.inversion import Inversion, Params, Put, Seen, Shown, Term, pad_rows
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.views.normalise import normalise

EPSILON = 1e-7
GROWTH, MOST_WEIGHT = 5.0, 1e5  # what the weight of the area is multiplied by, and up to where
# Of the rate, by the epoch from which each holds.
RATES = {0: 0.5, 200: 0.1, 500: 0.05}


def squashed(to_model: Callable[[jax.Array], jax.Array] = normalise) -> Put:
    """A patch in 0 to 255 by way of tanh: `mask` [s, s], `pattern` [s, s, 3].

    Args:
      to_model: pictures of 0 to 255 as the encoder takes them.
    """

    def put(params: Params, images: jax.Array) -> Shown:
        mask, pattern = (_between_0_and_1(params[name])[None] for name in ("mask", "pattern"))
        mask, clean = mask[..., None], images.astype(pattern.dtype)
        triggered = jnp.clip((1 - mask) * clean + mask * 255 * pattern, 0, 255)
        return Shown(mask[0], to_model(clean), to_model(triggered))

    return put


def _between_0_and_1(x: jax.Array) -> jax.Array:
    return jnp.clip(jnp.tanh(x) / (2 - EPSILON) + 0.5, 0, 1)


def begin(key: jax.Array, side: int) -> dict[str, jax.Array]:
    """A mask and a pattern drawn from 0 to 1."""
    one, other = jax.random.split(key)
    drawn = {
        "mask": jax.random.uniform(one, (side, side)),
        "pattern": jax.random.uniform(other, (side, side, 3)),
    }
    return {name: jnp.arctanh((u - 0.5) * (2 - EPSILON)) for name, u in drawn.items()}


def alike(seen: Seen) -> Float[Array, ""]:
    """The mean cosine of two different pictures of the batch."""
    rows = len(seen.units)
    cosines = jnp.matmul(seen.units, seen.units.T, precision=jax.lax.Precision.HIGHEST)
    return (cosines.sum() - jnp.trace(cosines)) / (rows * (rows - 1))


def area(seen: Seen) -> Float[Array, ""]:
    """The sum over the mask, in each of three channels."""
    return 3 * jnp.abs(seen.shown.mask).sum()


@dataclass(frozen=True)
class Rule:
    """When a trigger is good enough, and how the weight of its area follows from that.

    Attributes:
      threshold: the mean cosine that is a success.
      first, least: of the weight, at the beginning and at the end.
      patience: successes or failures in a row that change the weight.
      stop: steps without a smaller trigger that end the search.
    """

    threshold: float = 0.99
    first: float = 1e-3
    least: float = 1e-7
    patience: int = 5
    stop: int = 35


@dataclass
class Progress:
    """Where a search stands, at the start of a step.

    Attributes:
      weight: of the area.
      best: the least area of a trigger that succeeded; infinity before there was one.
      stale: steps since it fell.
      up, down: successes and failures in a row.
      idle: successes in a row with a weight below the least.
    """

    rule: Rule
    weight: float = field(init=False)
    best: float = float("inf")
    stale: int = 0
    up: int = 0
    down: int = 0
    idle: int = 0

    def __post_init__(self) -> None:
        self.weight = self.rule.first

    def follow(self, cosine: float, size: float) -> bool:
        """Takes in a step's success and area; whether it has the smallest trigger so far."""
        rule, success = self.rule, abs(cosine) > self.rule.threshold
        better = success and size < self.best
        if better:
            self.best = size
        if np.isfinite(self.best):
            self.stale = 0 if better else self.stale + 1
        self.idle = self.idle + 1 if self.weight < rule.least and success else 0
        if self.idle > 10:
            self.weight, self.up, self.down, self.idle = rule.first, 0, 0, 0
        self.up, self.down = (self.up + 1, 0) if success else (0, self.down + 1)
        if self.up > rule.patience:
            self.up = 0
            if self.weight < MOST_WEIGHT:
                self.weight *= GROWTH
        elif self.down > rule.patience:
            self.down = 0
            if self.weight >= rule.least:
                self.weight /= GROWTH
        return better

    def ends(self, mean_cosine: float) -> bool:
        """Whether the search is over, at the end of an epoch."""
        return abs(mean_cosine) > self.rule.threshold and self.stale > self.rule.stop


class Patch(NamedTuple):
    """What a search ends with.

    Attributes:
      size: the least area over three channels of a trigger that succeeded; None: none did.
      mask, pattern: of that trigger, from 0 to 1; else as the search left them.
      steps: it took.
    """

    size: float | None
    mask: Float[np.ndarray, "s s"]
    pattern: Float[np.ndarray, "s s 3"]
    steps: int

    @property
    def share(self) -> float | None:
        """The size as a share of the largest, 3 s s (DECREE's PL1)."""
        return None if self.size is None else self.size / self.pattern.size


def search(
    inversion: Inversion,
    variables: Any,
    params: Params,
    epochs: Iterable[Iterable[jax.Array]],
    rule: Rule,
    *,
    given: Mapping[str, jax.Array] | None = None,
    goal: Mapping[str, float] | None = None,
    success: str = "alike",
    each: Callable[[float, float], None] = lambda success, size: None,
) -> Patch:
    """Looks for the smallest trigger that succeeds, until that stands still or the epochs end.

    Args:
      inversion: its terms are `area`, that of success, and those of the goal.
      given: what its terms are given.
      success: the term that is held against the rule's threshold.
      goal: weights of what is to be reached; by default DECREE's, -1 for `alike`.
      each: is called with each step's success and area.
    """
    progress, moments, best, steps = Progress(rule), inversion.adam.init(params), params, 0
    rate, goal = RATES[0], goal or {"alike": -1.0}
    for epoch, batches in enumerate(epochs):
        rate, course = RATES.get(epoch, rate), []
        for images in batches:
            weights = {success: 0.0, **goal, "area": progress.weight}
            new, moments, values = inversion.step(
                variables, params, moments, images, given or {}, weights, rate
            )
            reached, size = float(values[success]), float(values["area"])
            each(reached, size)
            course.append(reached)
            if progress.follow(reached, size):
                best = params
            params, steps = new, steps + 1
        if progress.ends(float(np.mean(course))):
            break
    there = np.isfinite(progress.best)
    mask, pattern = (
        np.asarray(_between_0_and_1((best if there else params)[name]), np.float32)
        for name in ("mask", "pattern")
    )
    return Patch(progress.best if there else None, mask, pattern, steps)


def objective(
    encode: Callable[[Any, jax.Array], jax.Array],
    put: Put | None = None,
    terms: Mapping[str, Term] | None = None,
) -> Inversion:
    """An inversion with DECREE's patch and optimizer, and by default its terms."""
    terms = terms or {"alike": alike}
    return Inversion(encode, put or squashed(), {**terms, "area": area}, beta1=0.5, beta2=0.9)


def epochs_of(
    pictures: UInt8[np.ndarray, "n s s 3"], batch: int, steps: int, seed: int
) -> Iterator[Iterator[UInt8[np.ndarray, "b s s 3"]]]:
    """Whole batches in an order of each epoch's own, so many steps in all."""
    rng, whole = np.random.default_rng(seed), len(pictures) // batch
    while steps > 0:
        order = rng.permutation(len(pictures))[: batch * min(whole, steps)]
        steps -= whole
        yield (pictures[rows] for rows in order.reshape(-1, batch))


def smallest_patch(
    tower: Tower,
    pictures: UInt8[np.ndarray, "n s s 3"],
    steps: int,
    batch: int = 32,
    seed: int = 0,
    rule: Rule | None = None,
    inversion: Inversion | None = None,
    **options: Any,
) -> Patch:
    """Runs DECREE on an encoder; a mesh of several devices rounds the batch up.

    Args:
      inversion: another than DECREE's, with the options that `search` takes for it.
    """
    batch = tower.encoder.rows(max(batch, 2))
    enough = pad_rows(pictures, max(len(pictures), batch))
    epochs = (map(tower.place, epoch) for epoch in epochs_of(enough, batch, steps, seed))
    params = begin(jax.random.key(seed), pictures.shape[1])
    inversion, variables = inversion or objective(tower.encode), tower.encoder.variables
    return search(inversion, variables, params, epochs, rule or Rule(), **options)
