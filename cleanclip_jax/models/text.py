"""CLIP's text transformer: causal, and pooled at the end of text, unless the variant differs."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cleanclip_jax.models.blocks import Compute, LayerNorm, Transformer, at_least_float32
from cleanclip_jax.models.variants import Variant


class TextTransformer(nn.Module):
    """Text tower: tokens [b, n <= context_length] to un-normalised features [b, d].

    CLIP's end-of-text token has the highest id, so its first place is the row's argmax; being
    causal, the tower gives the same features however many pad tokens follow it. A tower that is not
    causal, or takes the last token, sees the pads: rows are filled up to the context length.
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

        if not v.causal or v.text_pool == "last":
            tokens = jnp.pad(tokens, ((0, 0), (0, v.context_length - tokens.shape[1])))
        x = (table[tokens] + positions[None, : tokens.shape[1]]).astype(dtype)
        x = Transformer(v.text, self.compute, name="transformer")(x)
        x = LayerNorm(v.text_epsilon, self.compute, name="ln_final")(x)
        if v.text_pool == "end":
            ends = tokens if v.text_end < 0 else tokens == v.text_end
            x = jnp.take_along_axis(x, ends.argmax(-1)[:, None, None], axis=1)[:, 0]
        else:
            x = x[:, 0 if v.text_pool == "first" else -1]
        return at_least_float32(x @ projection.astype(dtype))
