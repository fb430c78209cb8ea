"""What both towers are made of: layer norm, attention, the residual block, the transformer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cleanclip_jax.models.variants import Stack

Dtype = str | type | jnp.dtype

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


# cudnn: one fused kernel, which never writes the matrix of weights to memory.
ATTENTION = ("xla", "cudnn")


@dataclass(frozen=True)
class Compute:
    """How a model is computed, whatever its numbers. No field changes a parameter's name or shape.

    Attributes:
      dtype: of the computation; statistics, softmax and features are float32 at least.
      param_dtype: of the parameters.
      activation: a name of `ACTIVATIONS`.
      attention: a name of `ATTENTION`.
      bn_groups: batch norm sees the batch in so many parts (joint forward, docs/fidelity.md).
      bn_frozen: batch norm uses its running statistics in training too.
      scan: transformer blocks are one compiled loop.
      remat: activations are computed again on the way back, not held in memory.
    """

    dtype: Dtype = "float32"
    param_dtype: Dtype = "float32"
    activation: str = "quick_gelu"
    attention: str = "xla"
    bn_groups: int = 1
    bn_frozen: bool = False
    scan: bool = False
    remat: bool = False

    @property
    def types(self) -> dict[str, Any]:
        """The two types, as Flax's layers take them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def at_least_float32(x: jax.Array) -> jax.Array:
    """Statistics, softmax and features never go below float32; float64 stays float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def attend(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    causal: bool = False,
    how: str = "xla",
) -> Float[Array, "b q h d"]:
    """Softmax attention, the softmax in float32 or better.

    Args:
      how: a name of `ATTENTION`.
    """
    if how == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
    logits = at_least_float32(jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k))
    if causal:
        seen = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        logits = jnp.where(seen, logits, -jnp.inf)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)


class LayerNorm(nn.Module):
    """Layer norm; statistics in float32 or better."""

    epsilon: float
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "... w"]) -> Float[Array, "... w"]:
        # Flax's epsilon is 1e-6 and its fast variance cancels: torch norms (docs/fidelity.md).
        fields = {"epsilon": self.epsilon, "use_fast_variance": False, **self.compute.types}
        return nn.LayerNorm(**fields, name="norm")(x)


class Block(nn.Module):
    """Pre-norm residual block of a stack: attention, then a wider MLP."""

    stack: Stack
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        def dense(name: str, size: int, std: float) -> nn.Dense:
            init = nn.initializers.normal(std)
            return nn.Dense(size, kernel_init=init, name=name, **self.compute.types)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(self.stack.epsilon, self.compute, name=name)

        b, n, width = x.shape
        attention_std = width**-0.5
        residual_std = attention_std * (2 * self.stack.layers) ** -0.5
        # Rows of one matrix: XLA's CPU backend takes three times as long for the gradient of a
        # product over [b, n] as over [b * n].
        x = x.reshape(b * n, width)
        qkv = dense("qkv", 3 * width, attention_std)(norm("ln_1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.stack.heads, -1), 2, 0)
        mixed = attend(q, k, v, self.stack.causal, self.compute.attention).reshape(b * n, width)
        self.sow("intermediates", "mixed", mixed)
        x = x + dense("out", width, residual_std)(mixed)
        hidden = dense("fc", self.stack.hidden, (2 * width) ** -0.5)(norm("ln_2")(x))
        hidden = ACTIVATIONS[self.compute.activation](hidden)
        mlp = dense("proj", width, residual_std)(hidden)
        self.sow("intermediates", "mlp", mlp)
        return (x + mlp).reshape(b, n, width)


class Transformer(nn.Module):
    """A stack of blocks. The parameter tree is the same with and without scan and remat.

    Without scan it sows what each block gives: block1, block2, ...
    """

    stack: Stack
    compute: Compute

    def setup(self) -> None:
        self.blocks = [Block(self.stack, self.compute) for _ in range(self.stack.layers)]

    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        scan, remat = self.compute.scan, self.compute.remat
        if self.is_initializing() or not (scan or remat):
            for number, block in enumerate(self.blocks, 1):
                x = block(x)
                self.sow("intermediates", f"block{number}", x)
            return x
        block = Block(self.stack, self.compute, parent=None)

        def apply(x: jax.Array, params: dict) -> jax.Array:
            return block.apply({"params": params}, x)  # pyright: ignore[reportReturnType]

        if remat:
            apply = jax.checkpoint(apply)
        trees: list[Any] = [block.variables["params"] for block in self.blocks]
        if not scan:
            for number, tree in enumerate(trees, 1):
                x = apply(x, tree)
                self.sow("intermediates", f"block{number}", x)
            return x
        # Stacked here, inside the step, so that state and checkpoints never see it.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        return jax.lax.scan(lambda x, params: (apply(x, params), None), x, stacked)[0]
