"""CLIP's vision transformer."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cleanclip_jax.models.blocks import Compute, LayerNorm, Transformer, at_least_float32
from cleanclip_jax.models.variants import Variant


class VisionTransformer(nn.Module):
    """Image tower: pictures [b, s, s, 3] to un-normalised features [b, d]."""

    variant: Variant
    compute: Compute

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"], train: bool) -> Float[Array, "b d"]:
        b, side, _, _ = images.shape
        v, dtype, param_dtype = self.variant, self.compute.dtype, self.compute.param_dtype
        p, w, grid = v.patch, v.vision_width, side // v.patch
        normal = nn.initializers.normal

        kernel_init = normal((3 * p * p) ** -0.5)
        kernel = self.param("patch_kernel", kernel_init, (p, p, 3, w), param_dtype)
        class_token = self.param("class_token", normal(w**-0.5), (w,), param_dtype)
        positions_shape = (grid * grid + 1, w)
        positions = self.param("positions", normal(w**-0.5), positions_shape, param_dtype)
        projection_shape = (w, v.features)
        projection = self.param("projection", normal(w**-0.5), projection_shape, param_dtype)

        # A convolution whose stride is its kernel is one matrix product over the patches.
        x = images.astype(dtype).reshape(b, grid, p, grid, p, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b * grid * grid, p * p * 3)
        x = (x @ kernel.reshape(-1, w).astype(dtype)).reshape(b, grid * grid, w)
        first = jnp.broadcast_to(class_token.astype(dtype), (b, 1, w))
        x = jnp.concatenate([first, x], 1) + positions[None].astype(dtype)

        def norm(name: str, x: jax.Array) -> jax.Array:
            return LayerNorm(v.vision_epsilon, self.compute, name=name)(x)

        if v.ln_pre:
            x = norm("ln_pre", x)
        self.sow("intermediates", "first", x[:, 0])
        x = Transformer(v.vision, self.compute, name="transformer")(x)
        # A norm of each token, so that the class token's alone is as good.
        if v.vision_pool == "token":
            x = norm("ln_post", x[:, 0])
        elif v.vision_pool == "mean":
            x = norm("ln_post", x)[:, 1:].mean(1)
        else:
            x = norm("ln_post", x[:, 1:].mean(1))
        return at_least_float32(x @ projection.astype(dtype))
