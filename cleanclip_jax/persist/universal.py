"""One perturbation for all pictures that wakes a cleaned backdoor (arXiv 2405.16134).

As the released white-box attack has it: added to pictures in [0, 1], bounded in every value, found
by plain gradient descent and projected after each step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, UInt8

from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.models.clip import CLIP, encode_image
from cleanclip_jax.views.normalise import standardise

Perturbation = Float32[Array, "s s 3"]
Terms = dict[str, Float[Array, ""]]


def perturbed(
    images: UInt8[Array, "b s s 3"], perturbation: Perturbation
) -> Float32[Array, "b s s 3"]:
    """clip(x + perturbation, 0, 1), whose gradient is 1 inside, ends included, as torch's clamp."""
    x = images.astype(jnp.float32) / 255 + perturbation[None]
    return jnp.where((x >= 0) & (x <= 1), x, jax.lax.stop_gradient(jnp.clip(x, 0, 1)))


def features_of(
    model: CLIP,
    variables: Mapping[str, Any],
    images: UInt8[Array, "b s s 3"],
    perturbation: Perturbation,
) -> Float[Array, "b d"]:
    """Un-normalised features of the perturbed pictures, in evaluation mode."""
    pictures = perturbed(images, perturbation)
    return encode_image(
        model, variables, standardise(pictures, str(jnp.dtype(model.compute.dtype)))
    )


def terms_of(logits: Float[Array, "b c"], target: int | Int[Array, ""]) -> Terms:
    """The two terms whose sum is minimised: towards the target, and away from the runner-up.

    `target` is the mean cross-entropy of the target; `runner_up` the mean of
    -log(1.0001 - q_r + 1e-12), r being each picture's best class but the target.
    """
    logs = jax.nn.log_softmax(logits, axis=-1)
    others = jnp.where(jnp.arange(logits.shape[1])[None] == target, -jnp.inf, logits)
    # No gradient goes through the infinity.
    runner_up = jax.lax.stop_gradient(others).argmax(-1)
    best = jnp.take_along_axis(logs, runner_up[:, None], 1)[:, 0]
    away = -jnp.log(1.0001 - jnp.exp(best) + 1e-12)
    return {"target": -logs[:, target].mean(), "runner_up": away.mean()}


def make_wake_step(
    model: CLIP, radius: float, step_size: float
) -> Callable[..., tuple[Perturbation, Terms, Perturbation]]:
    """Returns the jitted step.

    It takes (perturbation, variables, pictures uint8 [b, s, s, 3], class embeddings [c, d] of unit
    length, target) and gives the next perturbation, no value of it beyond `radius`, the terms
    before the step, and the gradient of their sum.
    """

    def step(
        perturbation: Perturbation,
        variables: Mapping[str, Any],
        images: jax.Array,
        classes: jax.Array,
        target: jax.Array,
    ) -> tuple[Perturbation, Terms, Perturbation]:
        scale = jnp.exp(variables["params"]["logit_scale"].astype(jnp.float32))

        def loss(perturbation: Perturbation) -> tuple[jax.Array, Terms]:
            units = normalise_rows(features_of(model, variables, images, perturbation))
            highest = jax.lax.Precision.HIGHEST
            terms = terms_of(scale * jnp.matmul(units, classes.T, precision=highest), target)
            return terms["target"] + terms["runner_up"], terms

        slope, terms = jax.grad(loss, has_aux=True)(perturbation)
        moved = jnp.clip(perturbation - step_size * slope, -radius, radius)
        return moved, terms, slope

    return jax.jit(step)
