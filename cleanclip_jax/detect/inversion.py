"""The one engine that finds a trigger from a model alone: mask and pattern, optimised by Adam.

An inversion is set apart by what a trigger is (`Put`) and by what it is to do (`Term`s, weighed):
InverTune's (arXiv 2506.12411) stands here, DECREE's in detect.decree.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cleanclip_jax.losses.align import norm
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.views.normalise import MEAN, STD

Params: TypeAlias = Mapping[str, jax.Array]  # `mask` and `pattern`, as they are optimised
Images: TypeAlias = Float[Array, "b s s 3"]

TEMPERATURE = 0.07  # of InverTune's cross-entropy
WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian


class Shown(NamedTuple):
    """A batch with the trigger on it."""

    mask: Float[Array, "..."]  # from 0 to 1 where it is a share of the trigger
    clean: Images  # as the encoder takes them
    triggered: Images


class Seen(NamedTuple):
    """What a term sees."""

    shown: Shown
    units: Float[Array, "b d"]  # unit embeddings of the triggered pictures
    given: Mapping[str, jax.Array]  # what the inversion is given beside the pictures


Put: TypeAlias = Callable[[Params, jax.Array], Shown]
Term: TypeAlias = Callable[[Seen], jax.Array]


@dataclass(frozen=True, eq=False)
class Inversion:
    """What is optimised.

    Attributes:
      encode: of (variables, pictures): un-normalised image features.
      put: of (parameters, pictures): the pictures with the trigger that the parameters stand for.
      terms: by name; the loss is their weighted sum.
      project: of the parameters after each step, where their range is bounded.
      beta1, beta2: Adam's.
    """

    encode: Callable[[Any, Images], jax.Array]
    put: Put
    terms: Mapping[str, Term]
    project: Callable[[Params], Params] = dict
    beta1: float = 0.9
    beta2: float = 0.999

    @property
    def adam(self) -> optax.GradientTransformation:
        """Adam's moments; the rate is the step's."""
        return optax.scale_by_adam(self.beta1, self.beta2, eps=1e-8)

    def values(
        self, variables: Any, params: Params, images: jax.Array, given: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Each term for one batch."""
        shown = self.put(params, images)
        units = normalise_rows(self.encode(variables, shown.triggered))
        return {name: term(Seen(shown, units, given)) for name, term in self.terms.items()}

    @partial(jax.jit, static_argnums=0)
    def step(
        self,
        variables: Any,
        params: Params,
        moments: Any,
        images: jax.Array,
        given: Mapping[str, jax.Array],
        weights: Mapping[str, Any],
        rate: Any,
    ) -> tuple[Params, Any, dict[str, jax.Array]]:
        """One update: parameters and moments after it, and the terms before it."""

        def loss(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            values = self.values(variables, params, images, given)
            total = sum((weights[name] * value for name, value in values.items()), jnp.zeros(()))
            return total, {**values, "loss": total}

        gradients, values = jax.grad(loss, has_aux=True)(params)
        updates, moments = self.adam.update(gradients, moments)
        new: Any = jax.tree.map(lambda x, update: x - rate * update, params, updates)
        return self.project(new), moments, values


def optimise(
    inversion: Inversion,
    variables: Any,
    params: Params,
    batches: Iterable[jax.Array],
    given: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    rate: float,
) -> tuple[Params, list[dict[str, jax.Array]]]:
    """A step for each batch of pictures; the parameters after them, and the terms of each step."""
    moments, course = inversion.adam.init(params), []
    for images in batches:
        params, moments, values = inversion.step(
            variables, params, moments, images, given, weights, rate
        )
        course.append(values)
    return params, course


# InverTune's.


def mixed(params: Params, images: Images) -> Shown:
    """Mask and pattern [s, s, 3], mixed into normalised pictures: m t + (1 - m) x."""
    mask, pattern = params["mask"][None], params["pattern"][None]
    return Shown(mask[0], images, mask * pattern + (1 - mask) * images)


def in_range(params: Params) -> Params:
    """The mask in [0, 1], and the pattern between black and white of normalised pictures.

    The published code has one range for all channels, [-1.7922, 2.1461], of the one that is widest.
    """
    black, white = (jnp.asarray((x - MEAN) / STD)[None, None] for x in (0.0, 1.0))
    return {
        "mask": jnp.clip(params["mask"], 0, 1),
        "pattern": jnp.clip(params["pattern"], black, white),
    }


def towards(seen: Seen) -> Float[Array, ""]:
    """Cross-entropy of the triggered pictures with the target: `texts` [c, d], `target`."""
    texts, target = seen.given["texts"], seen.given["target"]
    logits = jnp.matmul(seen.units, texts.T, precision=jax.lax.Precision.HIGHEST) / TEMPERATURE
    labels = jnp.broadcast_to(target, logits.shape[:1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def embedding(seen: Seen) -> Float[Array, ""]:
    """How far they are from pictures of the target: `pictures`, unit embeddings [b or 1, d]."""
    return norm(seen.units - seen.given["pictures"])


def unlike(seen: Seen) -> Float[Array, ""]:
    """What SSIM lacks to 1, of the triggered pictures with the clean ones."""
    return 1 - ssim(seen.shown.triggered, seen.shown.clean)


def area(seen: Seen) -> Float[Array, ""]:
    """The sum over the mask."""
    return jnp.abs(seen.shown.mask).sum()


# Term by term as the published code weighs them.
INVERTUNE: dict[str, Term] = {
    "towards": towards,
    "embedding": embedding,
    "unlike": unlike,
    "area": area,
}
WEIGHTS = {"towards": 5.0, "embedding": 0.5, "unlike": 1.0, "area": 0.01}


def ssim(x: Images, y: Images) -> Float[Array, ""]:
    """Mean structural similarity over pictures and channels, for a range of 1.

    As pytorch-msssim computes it: a Gaussian window of 11 pixels with sigma 1.5, at the places
    where it lies inside the picture. InverTune gives it normalised pictures, and so does `unlike`.
    """
    c1, c2 = 0.01**2, 0.03**2
    smooth = _smoothing(x.shape[1])

    def blurred(image: jax.Array) -> jax.Array:
        highest = jax.lax.Precision.HIGHEST
        return jnp.einsum("bhwc,kh,lw->bklc", image, smooth, smooth, precision=highest)

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return ((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure).mean()


def _smoothing(side: int) -> Float[np.ndarray, "places side"]:
    """The window at each of its places along a side, as a matrix."""
    window = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    rows = np.zeros((max(side - WINDOW + 1, 1), side), np.float32)
    for place, row in enumerate(rows):
        row[place : place + WINDOW] = (window / window.sum())[:side]
    return rows


def pad_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """So many rows, from the first on again where there are fewer."""
    return rows[np.arange(count) % len(rows)]


def begin(key: jax.Array, side: int) -> dict[str, jax.Array]:
    """InverTune's beginning: all of the mask, and a pattern drawn from 0 to 1."""
    return {
        "mask": jnp.ones((side, side, 3)),
        "pattern": jax.random.uniform(key, (side, side, 3)),
    }


def given_target(
    texts: Float[np.ndarray, "c d"], target: int, pictures: Float[np.ndarray, "b d"]
) -> dict[str, jax.Array | Int[Array, ""]]:
    """Unit embeddings of the classes and of pictures of the target, as the terms take them."""
    return {
        "texts": jnp.asarray(texts),
        "target": jnp.asarray(target, jnp.int32),
        "pictures": jnp.asarray(pictures),
    }
