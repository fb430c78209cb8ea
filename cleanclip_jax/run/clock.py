"""How much of a chip a run uses: the model's FLOPs against the chip's peak, and its memory."""

from collections.abc import Iterator
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from cleanclip_jax.losses.compare import NEEDS_VIEWS
from cleanclip_jax.models.clip import CLIP, encode_image, encode_text, init
from cleanclip_jax.run.step import TRAINABLE, Objective

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets; a TPU v4 or v5p chip is one
# device to JAX. What is computed in float32 is set against the same peak.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
}


def peak_of(kind: str) -> float | None:
    """The peak of a `device_kind`, by the longest name that it begins with; None: not known."""
    found = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(found, key=len)] if found else None


def flops_per_pair(model: CLIP, asked: Objective, length: int | None = None) -> float:
    """Multiplications and additions that training on a pair takes, as the model is written.

    Forward and backward are three forwards; towers that stand still are one. What is computed
    again to save memory does not count, nor does the comparison of the embeddings.

    Args:
      length: tokens of a caption; None: the whole context.
    """
    v = model.variant
    model = model.computed(attention="xla")  # the products of a fused kernel can't be seen
    shapes: Any = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, v.image_size, v.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, length or v.context_length), jnp.int32)
    views = 2 if NEEDS_VIEWS & asked.contrastive.keys() else 1
    moving = TRAINABLE[asked.trainable]
    pictures = _flops(lambda variables, x: encode_image(model, variables, x), shapes, image)
    total = views * pictures * (3 if "visual" in moving else 1)
    if asked.contrastive:
        texts = _flops(lambda variables, x: encode_text(model, variables, x), shapes, tokens)
        total += views * texts * (3 if "text" in moving else 1)
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
                    yield from ((found, often * times) for found, times in products(inner))


def memory_in_use() -> int | None:
    """The most bytes that a device of this process has had in use, None where it doesn't say."""
    found = [device.memory_stats() for device in jax.local_devices()]
    peaks = [
        stats["peak_bytes_in_use"] for stats in found if stats and "peak_bytes_in_use" in stats
    ]
    return max(peaks, default=None)
