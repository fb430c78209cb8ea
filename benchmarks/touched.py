"""What a model's products touch in memory, which costs.py and scaling.py both count."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from cleanclip_jax.models.clip import CLIP, encode_image, encode_text, init
from cleanclip_jax.run.flops import products


def elements(model: CLIP, pairs: int) -> int:
    """Elements read and written by the products and convolutions of both towers' forward pass.

    Each operand once and each result once, of so many pairs with two views.
    """
    v, b = model.variant, 2 * pairs
    shapes: Any = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((b, v.image_size, v.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((b, v.context_length), jnp.int32)

    def both(variables: Any, images: jax.Array, tokens: jax.Array) -> Any:
        return encode_image(model, variables, images), encode_text(model, variables, tokens)

    return sum(
        times * sum(math.prod(x.aval.shape) for x in (*equation.invars, *equation.outvars))
        for equation, times in products(jax.make_jaxpr(both)(shapes, images, tokens).jaxpr)
    )
