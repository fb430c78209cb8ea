"""CLIP's causal text transformer, pooled at the end-of-text token."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cleanclip_jax.models.blocks import Dtype, LayerNorm, Transformer, at_least_float32


class TextTransformer(nn.Module):
    """Text tower: tokens [b, n <= context_length] to un-normalised features [b, d].

    The end-of-text token has the highest id, so its first place is the row's argmax; being
    causal, the tower gives the same features however many pad tokens follow it.
    """

    layers: int
    width: int
    heads: int
    context_length: int
    vocab_size: int
    features: int
    activation: str
    attention: str
    dtype: Dtype
    param_dtype: Dtype
    scan: bool
    remat: bool

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
        normal, w = nn.initializers.normal, self.width
        table = self.param("token_embedding", normal(0.02), (self.vocab_size, w), self.param_dtype)
        positions_shape = (self.context_length, w)
        positions = self.param("positions", normal(0.01), positions_shape, self.param_dtype)
        projection_shape = (w, self.features)
        projection = self.param("projection", normal(w**-0.5), projection_shape, self.param_dtype)

        x = (table[tokens] + positions[None, : tokens.shape[1]]).astype(self.dtype)
        x = Transformer(
            layers=self.layers,
            width=w,
            heads=self.heads,
            causal=True,
            activation=self.activation,
            attention=self.attention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            scan=self.scan,
            remat=self.remat,
            name="transformer",
        )(x)
        x = LayerNorm(self.dtype, self.param_dtype, name="ln_final")(x)
        x = jnp.take_along_axis(x, tokens.argmax(-1)[:, None, None], axis=1)[:, 0]
        return at_least_float32(x @ projection.astype(self.dtype))
