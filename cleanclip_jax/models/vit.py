"""CLIP's vision transformer."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cleanclip_jax.models.blocks import Dtype, LayerNorm, Transformer, at_least_float32


class VisionTransformer(nn.Module):
    """Image tower: pictures [b, s, s, 3] to un-normalised features [b, d]."""

    layers: int
    width: int
    heads: int
    patch: int
    features: int
    activation: str
    attention: str
    dtype: Dtype
    param_dtype: Dtype
    scan: bool
    remat: bool

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"], train: bool) -> Float[Array, "b d"]:
        b, side, _, _ = images.shape
        p, w, grid = self.patch, self.width, side // self.patch
        normal = nn.initializers.normal

        kernel_init = normal((3 * p * p) ** -0.5)
        kernel = self.param("patch_kernel", kernel_init, (p, p, 3, w), self.param_dtype)
        class_token = self.param("class_token", normal(w**-0.5), (w,), self.param_dtype)
        positions_shape = (grid * grid + 1, w)
        positions = self.param("positions", normal(w**-0.5), positions_shape, self.param_dtype)
        projection_shape = (w, self.features)
        projection = self.param("projection", normal(w**-0.5), projection_shape, self.param_dtype)

        # A convolution whose stride is its kernel is one matrix product over the patches.
        x = images.astype(self.dtype).reshape(b, grid, p, grid, p, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b * grid * grid, p * p * 3)
        x = (x @ kernel.reshape(-1, w).astype(self.dtype)).reshape(b, grid * grid, w)
        first = jnp.broadcast_to(class_token.astype(self.dtype), (b, 1, w))
        x = jnp.concatenate([first, x], 1) + positions[None].astype(self.dtype)
        x = LayerNorm(self.dtype, self.param_dtype, name="ln_pre")(x)
        x = Transformer(
            layers=self.layers,
            width=w,
            heads=self.heads,
            causal=False,
            activation=self.activation,
            attention=self.attention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            scan=self.scan,
            remat=self.remat,
            name="transformer",
        )(x)
        x = LayerNorm(self.dtype, self.param_dtype, name="ln_post")(x[:, 0])
        return at_least_float32(x @ projection.astype(self.dtype))
