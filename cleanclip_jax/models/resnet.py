"""CLIP's modified ResNet: three-convolution stem, anti-aliased strides, attention pool."""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cleanclip_jax.models.blocks import Compute, at_least_float32, attend
from cleanclip_jax.models.variants import Variant

# torch's default for convolutions: uniform with variance 1 / (3 fan_in).
CONV_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
SMALL_MAP = 8 * 8  # places; above it the patches of a 3x3 kernel take much memory


class BatchNorm(nn.Module):
    """Batch norm with momentum 0.1 and unbiased running variance (torch norms, docs/fidelity.md).

    With `bn_groups` > 1 the batch is cut into that many runs of rows, each normalised by its own
    statistics, as on so many devices of the original (joint forward, docs/fidelity.md); the running
    statistics follow the mean over the groups.
    """

    compute: Compute
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        channels, param_dtype = x.shape[-1], self.compute.param_dtype
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale_init = zeros if self.zero_scale else ones
        scale = self.param("scale", scale_init, (channels,), param_dtype)
        bias = self.param("bias", zeros, (channels,), param_dtype)
        stats = jnp.promote_types(param_dtype, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), stats)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), stats)
        grouped = train and not self.compute.bn_frozen
        groups = self.compute.bn_groups if grouped else 1

        def high(x: jax.Array) -> jax.Array:
            return at_least_float32(x).reshape(groups, -1, *x.shape[1:])

        # For the way back only x is held, as it came: what follows from it in float32 takes twice
        # the memory of bfloat16, and little time to compute again.
        @jax.checkpoint
        def spread(x: jax.Array, mean: jax.Array) -> jax.Array:
            return jnp.square(high(x) - mean).mean((1, 2, 3), keepdims=True)

        @jax.checkpoint
        def normed(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
            return ((high(x) - mean) * factor + bias).reshape(x.shape).astype(self.compute.dtype)

        if grouped:
            mean = high(x).mean((1, 2, 3), keepdims=True)
            var = spread(x, mean)
            if not self.is_initializing():
                count = x.size // (groups * channels)
                unbiased = var.mean((0, 1, 2, 3)) * (count / max(count - 1, 1))
                running_mean.value = 0.9 * running_mean.value + 0.1 * mean.mean((0, 1, 2, 3))
                running_var.value = 0.9 * running_var.value + 0.1 * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        mean, var, scale, bias = (
            x.reshape(-1, 1, 1, 1, channels) for x in (mean, var, scale, bias)
        )
        return normed(x, mean, jax.lax.rsqrt(var + 1e-5) * scale, bias)


class AttentionPool(nn.Module):
    """Attention over the feature map and its mean, with the mean as the one query."""

    heads: int
    features: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        b, h, w, c = x.shape
        init = nn.initializers.normal(c**-0.5)
        positions = self.param("positions", init, (h * w + 1, c), self.compute.param_dtype)
        x = x.reshape(b, h * w, c)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], 1) + positions[None].astype(x.dtype)
        dense = partial(nn.Dense, kernel_init=init, **self.compute.types)
        q = dense(c, name="query")(x[:, :1]).reshape(b, 1, self.heads, -1)
        k = dense(c, name="key")(x).reshape(b, h * w + 1, self.heads, -1)
        v = dense(c, name="value")(x).reshape(b, h * w + 1, self.heads, -1)
        return dense(self.features, name="out")(attend(q, k, v).reshape(b, c))


class Bottleneck(nn.Module):
    """Residual bottleneck; every stride is an average pool before a 1x1 convolution."""

    planes: int
    stride: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W C"]:
        def conv(x: jax.Array, name: str, size: int, kernel: int = 1) -> jax.Array:
            return Convolution(size, kernel, 1, self.compute, name=name)(x)

        def norm(x: jax.Array, name: str, zero: bool = False) -> jax.Array:
            return BatchNorm(self.compute, zero_scale=zero, name=name)(x, train)

        def pool(x: jax.Array) -> jax.Array:
            window = (self.stride, self.stride)
            return nn.avg_pool(x, window, window) if self.stride > 1 else x

        wide = 4 * self.planes
        out = nn.relu(norm(conv(x, "conv1", self.planes), "bn1"))
        out = nn.relu(norm(conv(out, "conv2", self.planes, 3), "bn2"))
        out = norm(conv(pool(out), "conv3", wide), "bn3", zero=True)
        if self.stride > 1 or x.shape[-1] != wide:
            x = norm(conv(pool(x), "downsample_conv", wide), "downsample_bn")
        return nn.relu(out + x)


class ResNet(nn.Module):
    """Image tower: pictures [b, s, s, 3] to un-normalised features [b, d].

    Sows what its stages give: layer1 to layer4.
    """

    variant: Variant
    compute: Compute

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"], train: bool) -> Float[Array, "b d"]:
        compute, width = self.compute, self.variant.vision_width
        x = images.astype(compute.dtype)
        for i, (size, stride) in enumerate([(width // 2, 2), (width // 2, 1), (width, 1)], start=1):
            x = Convolution(size, 3, stride, compute, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(compute, name=f"bn{i}")(x, train))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        block = nn.remat(Bottleneck, static_argnums=(2,)) if compute.remat else Bottleneck
        for stage, depth in enumerate(cast(tuple, self.variant.vision_layers)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = block(width * 2**stage, stride, compute, name=name)(x, train)
            self.sow("intermediates", f"layer{stage + 1}", x)
        pool = AttentionPool(
            self.variant.vision_heads, self.variant.features, compute, name="attnpool"
        )
        return at_least_float32(pool(x))


class Convolution(nn.Module):
    """A convolution without bias, padded as torch's `padding=kernel // 2`.

    On a processor small feature maps go as one product of [b h w, k k c] with the kernel: XLA has
    a fast library for products there, and none for some convolutions and most of their gradients.
    """

    size: int
    kernel: int
    stride: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        edge, shape = self.kernel // 2, (self.kernel, self.kernel, x.shape[-1], self.size)
        kernel = self.param("kernel", CONV_INIT, shape, self.compute.param_dtype)
        kernel = kernel.astype(self.compute.dtype)
        x, strides, edges = x.astype(kernel.dtype), (self.stride,) * 2, (edge, edge)
        if jax.default_backend() == "cpu" and x.shape[1] * x.shape[2] <= SMALL_MAP:
            rows = patches(x, self.kernel, self.stride)
            out = rows.reshape(-1, rows.shape[-1]) @ kernel.reshape(-1, self.size)
            return out.reshape(*rows.shape[:-1], self.size)
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, (edges, edges), None, None, dimensions
        )


def patches(x: Float[Array, "b h w c"], kernel: int, stride: int) -> Float[Array, "b H W p"]:
    """What a convolution's kernel lies on at each place, p = kernel · kernel · c."""
    edge, (_, height, width, _) = kernel // 2, x.shape
    x = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    rows = [slice(i, i + height, stride) for i in range(kernel)]
    columns = [slice(i, i + width, stride) for i in range(kernel)]
    return jnp.concatenate([x[:, i, j] for i in rows for j in columns], -1)
