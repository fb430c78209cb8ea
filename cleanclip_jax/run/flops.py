"""FLOPs of training on a pair, counted in the model's jaxpr: the same number on every backend."""

from collections.abc import Iterator
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from cleanclip_jax.models.clip import CLIP, encode_image, encode_text
from cleanclip_jax.run.state import Objective
from cleanclip_jax.start.model import shapes_of


def flops_per_pair(model: CLIP, objective: Objective, length: int | None = None) -> float:
    """Multiplications and additions that training on a pair takes, as the model is written.

    Forward and backward are three forwards; towers that stand still are one. What is computed
    again to save memory does not count, nor does the comparison of the embeddings.

    Args:
      length: tokens of a caption; None: the whole context.
    """
    v, shapes = model.variant, shapes_of(model)
    model = model.computed(attention="xla")  # the products of a fused kernel can't be seen
    image = jax.ShapeDtypeStruct((1, v.image_size, v.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, length or v.context_length), jnp.int32)
    needs = objective.needs
    views = 2 if "view" in needs else 1
    pictures = _flops(lambda variables, x: encode_image(model, variables, x), shapes, image)
    total = views * pictures * (3 if objective.moves("visual") else 1)
    if "start" in needs:
        total += pictures
    if "layers" in needs:
        total += 3 * pictures
    if "text" in needs:
        texts = _flops(lambda variables, x: encode_text(model, variables, x), shapes, tokens)
        total += views * texts * (3 if objective.moves("text") else 1)
        if "start" in needs:
            total += texts
    return total


def _flops(function: Any, *arguments: Any) -> float:
    total = 0.0
    for equation, times in products(jax.make_jaxpr(function)(*arguments).jaxpr):
        out = equation.outvars[0].aval.shape
        if equation.primitive.name == "dot_general":
            (over, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += times * 2 * prod(out) * prod(left[axis] for axis in over)
        else:
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += times * 2 * prod(out) * prod(kernel) / features
    return total


def products(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """Yields the matrix products and convolutions of a jaxpr, and how often each is run."""
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            yield equation, 1
        else:
            often = parameters.get("length", 1) if name == "scan" else 1
            for value in parameters.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from ((each, often * times) for each, times in products(inner))
