"""CLIP: two encoders and a temperature, built from a config and used through init and apply."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cleanclip_jax.errors import UserError, near
from cleanclip_jax.models.blocks import ACTIVATIONS, Dtype
from cleanclip_jax.models.resnet import ResNet
from cleanclip_jax.models.text import TextTransformer
from cleanclip_jax.models.variants import Variant, find_variant
from cleanclip_jax.models.vit import VisionTransformer

Variables = Mapping[str, Any]


class CLIP(nn.Module):
    """Both towers and logit_scale. Un-normalised features: normalising is the caller's act."""

    variant: Variant
    activation: str = "quick_gelu"
    attention: str = "xla"
    dtype: Dtype = "float32"
    param_dtype: Dtype = "float32"
    bn_groups: int = 1
    bn_frozen: bool = False
    scan: bool = False
    remat: bool = False

    def setup(self) -> None:
        v = self.variant
        common: dict[str, Any] = {
            "features": v.features,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "remat": self.remat,
        }
        towers: dict[str, Any] = {
            **common,
            "activation": self.activation,
            "attention": self.attention,
            "scan": self.scan,
        }
        if isinstance(v.vision_layers, tuple):
            self.visual: nn.Module = ResNet(
                layers=v.vision_layers,
                width=v.vision_width,
                bn_groups=self.bn_groups,
                bn_frozen=self.bn_frozen,
                **common,
            )
        else:
            self.visual = VisionTransformer(
                layers=v.vision_layers,
                width=v.vision_width,
                heads=v.vision_heads,
                patch=v.patch,
                **towers,
            )
        self.text = TextTransformer(
            layers=v.text_layers,
            width=v.text_width,
            heads=v.text_heads,
            context_length=v.context_length,
            vocab_size=v.vocab_size,
            **towers,
        )
        scale_init = nn.initializers.constant(math.log(1 / 0.07))
        self.logit_scale = self.param("logit_scale", scale_init, (), self.param_dtype)

    def __call__(self, images: jax.Array, tokens: jax.Array, train: bool = False) -> jax.Array:
        # Only init comes this way: every parameter of both towers is touched once.
        return (self.visual(images, train) * self.text(tokens)).sum() * self.logit_scale

    def image_features(self, images: jax.Array, train: bool) -> jax.Array:
        return self.visual(images, train)

    def text_features(self, tokens: jax.Array) -> jax.Array:
        return self.text(tokens)


def build(
    variant: str | Variant,
    *,
    vocab_size: int | None = None,
    context_length: int | None = None,
    image_size: int | None = None,
    **options: Any,
) -> CLIP:
    """Returns the model of a named variant, with the tokenizer's and pictures' sizes put in.

    Args:
      variant: a name of `VARIANTS`, or the numbers themselves.
      vocab_size, context_length, image_size: in place of the variant's own.
      **options: the other fields of `CLIP` (activation, dtype, bn_groups, scan, ...).

    Raises:
      UserError: unknown variant or activation, or a picture size that the tower can't take.
    """
    numbers = find_variant(variant) if isinstance(variant, str) else variant
    sizes = {"vocab_size": vocab_size, "context_length": context_length, "image_size": image_size}
    changed = {name: size for name, size in sizes.items() if size is not None}
    numbers = Variant(**{**vars(numbers), **changed})
    step = numbers.patch or 32
    if numbers.image_size % step:
        raise UserError(
            f"config.model.image_size {numbers.image_size} is not a multiple of {step}, "
            f"as {variant if isinstance(variant, str) else 'this model'} needs"
        )
    activation = options.get("activation", "quick_gelu")
    if activation not in ACTIVATIONS:
        hint = near(activation, ACTIVATIONS) or f" Known: {', '.join(ACTIVATIONS)}."
        raise UserError(f"unknown activation {activation!r} (config.model.activation).{hint}")
    return CLIP(numbers, **options)


def init(model: CLIP, key: jax.Array) -> dict[str, Any]:
    """Returns fresh variables: {'params': ...} and, for a ResNet, {'batch_stats': ...}."""
    v = model.variant
    images = jnp.zeros((model.bn_groups, v.image_size, v.image_size, 3), model.dtype)
    tokens = jnp.zeros((1, v.context_length), jnp.int32)
    return jax.jit(lambda key: dict(model.init(key, images, tokens)))(key)


def encode_image(
    model: CLIP, variables: Variables, images: Float[Array, "b s s 3"]
) -> Float[Array, "b d"]:
    """Un-normalised image features in evaluation mode, float32 or better."""
    return model.apply(variables, images, False, method="image_features")  # pyright: ignore


def encode_image_train(
    model: CLIP, variables: Variables, images: Float[Array, "b s s 3"]
) -> tuple[Float[Array, "b d"], dict[str, Any]]:
    """Image features in training mode, and the new batch statistics ({} without batch norm)."""
    features, updated = model.apply(
        variables, images, True, method="image_features", mutable=["batch_stats"]
    )
    return features, dict(updated.get("batch_stats", {}))  # pyright: ignore


def encode_text(
    model: CLIP, variables: Variables, tokens: Int[Array, "b n"]
) -> Float[Array, "b d"]:
    """Un-normalised text features, float32 or better."""
    return model.apply(variables, tokens, method="text_features")  # pyright: ignore
