"""CLIP's causal text transformer, pooled at the end-of-text token."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cleanclip_jax.models.blocks import Compute, LayerNorm, Transformer, at_least_float32
from cleanclip_jax.models.variants import Variant


class TextTransformer(nn.Module):
    """Text tower: tokens [b, n <= context_length] to un-normalised features [b, d].

    The end-of-text token has the highest id, so its first place is the row's argmax; being
    causal, the tower gives the same features however many pad tokens follow it.
    """

    variant: Variant
    compute: Compute

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
        v, dtype, param_dtype = self.variant, self.compute.dtype, self.compute.param_dtype
        normal, w = nn.initializers.normal, v.text_width
        table = self.param("token_embedding", normal(0.02), (v.vocab_size, w), param_dtype)
        positions_shape = (v.context_length, w)
        positions = self.param("positions", normal(0.01), positions_shape, param_dtype)
        projection_shape = (w, v.features)
        projection = self.param("projection", normal(w**-0.5), projection_shape, param_dtype)

        x = (table[tokens] + positions[None, : tokens.shape[1]]).astype(dtype)
        blocks = Transformer(v.text_layers, w, v.text_heads, True, self.compute, name="transformer")
        x = LayerNorm(self.compute, name="ln_final")(blocks(x))
        x = jnp.take_along_axis(x, tokens.argmax(-1)[:, None, None], axis=1)[:, 0]
        return at_least_float32(x @ projection.astype(dtype))
