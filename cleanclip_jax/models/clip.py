"""CLIP: two encoders and a temperature, built from a config and used through init and apply."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.models.blocks import ACTIVATIONS, Compute
from cleanclip_jax.models.text import TextTransformer
from cleanclip_jax.models.variants import VARIANTS, Variant

Variables = Mapping[str, Any]


class CLIP(nn.Module):
    """Both towers and logit_scale. Un-normalised features: normalising is the caller's act."""

    variant: Variant
    compute: Compute = Compute()

    def setup(self) -> None:
        if isinstance(self.variant.vision_layers, tuple):
            from cleanclip_jax.models.resnet import ResNet as ImageTower
        else:
            from cleanclip_jax.models.vit import VisionTransformer as ImageTower
        self.visual = ImageTower(self.variant, self.compute)
        self.text = TextTransformer(self.variant, self.compute)
        scale_init = nn.initializers.constant(math.log(1 / 0.07))
        self.logit_scale = self.param("logit_scale", scale_init, (), self.compute.param_dtype)

    def __call__(self, images: jax.Array, tokens: jax.Array, train: bool = False) -> jax.Array:
        # Only init comes this way: every parameter of both towers is touched once.
        return (self.visual(images, train) * self.text(tokens)).sum() * self.logit_scale

    def computed(self, **fields: Any) -> "CLIP":
        """The same model with other fields of its `Compute`."""
        return self.clone(compute=replace(self.compute, **fields))

    def image_features(self, images: jax.Array, train: bool) -> jax.Array:
        return self.visual(images, train)

    def text_features(self, tokens: jax.Array) -> jax.Array:
        return self.text(tokens)


def build(
    variant: Any,
    *,
    vocab_size: int | None = None,
    context_length: int | None = None,
    image_size: int | None = None,
    **options: Any,
) -> CLIP:
    """Returns the model of a named variant, with the tokenizer's and pictures' sizes put in.

    Args:
      variant: a name of `VARIANTS`, a dictionary of numbers, or a `Variant`.
      vocab_size, context_length, image_size: in place of the variant's.
      **options: fields of `Compute` (activation, dtype, bn_groups, scan, ...).
    """
    numbers = variant if isinstance(variant, Variant) else variant_of(variant)
    sizes = {"vocab_size": vocab_size, "context_length": context_length, "image_size": image_size}
    numbers = replace(numbers, **{k: size for k, size in sizes.items() if size is not None})
    step = numbers.patch or 32
    if numbers.image_size % step:
        raise UserError(
            f"config.model.image_size {numbers.image_size} is not a multiple of {step}, "
            f"as {variant if isinstance(variant, str) else 'this model'} needs"
        )
    compute = Compute(**options)
    if compute.activation not in ACTIVATIONS:
        raise unknown("config.model.activation", compute.activation, ACTIVATIONS)
    return CLIP(numbers, compute)


def variant_of(given: Any) -> Variant:
    """The architecture of a name of `VARIANTS`, or of a dictionary of a `Variant`'s numbers."""
    if not hasattr(given, "items"):
        return VARIANTS.find(given)
    from cleanclip_jax.models.numbers import read_variant

    return read_variant("config.model.variant", given)


def init(model: CLIP, key: jax.Array) -> dict[str, Any]:
    """Returns fresh variables: {'params': ...} and, for a ResNet, {'batch_stats': ...}."""
    return _initialiser(model)(key)


def _make_initialiser(model: CLIP) -> Callable[[jax.Array], dict[str, Any]]:
    v, groups = model.variant, model.compute.bn_groups

    def make(key: jax.Array) -> dict[str, Any]:
        images = jnp.zeros((groups, v.image_size, v.image_size, 3), model.compute.dtype)
        tokens = jnp.zeros((1, v.context_length), jnp.int32)
        return dict(model.init(key, images, tokens))

    return jax.jit(make)


# One function a model: weights and the mere shapes of them are then traced once.
_initialiser: Any = cache(_make_initialiser)


def encode_image(
    model: CLIP, variables: Variables, images: Num[Array, "b s s 3"]
) -> Float[Array, "b d"]:
    """Un-normalised image features in evaluation mode, float32 or better.

    Args:
      images: of `views.normalise.normalise`, or of `cleanclip_jax.preprocess`.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"encode_image takes normalised floating point, not {images.dtype}: bring pictures to "
            "that with cleanclip_jax.preprocess(model, images)"
        )
    return model.apply(variables, images, False, method="image_features")  # pyright: ignore


def encode_image_train(
    model: CLIP, variables: Variables, images: Float[Array, "b s s 3"]
) -> tuple[Float[Array, "b d"], dict[str, Any]]:
    """Image features in training mode, and the new batch statistics ({} without batch norm)."""
    features, updated = model.apply(
        variables, images, True, method="image_features", mutable=["batch_stats"]
    )
    return features, dict(updated.get("batch_stats", {}))  # pyright: ignore


def encode_image_layers(
    model: CLIP, variables: Variables, images: Float[Array, "b s s 3"], train: bool = False
) -> tuple[Float[Array, "b d"], dict[str, jax.Array], dict[str, Any]]:
    """Image features, what each layer gives by its name, and the new batch statistics.

    Layers are a ResNet's layer1 to layer4 [b, h, w, c], a ViT's block1, block2, ... [b, n, w].
    """
    features, updated = _sowing(model.computed(scan=False), variables, images, train)
    sown: Any = updated["intermediates"]["visual"]
    sown = sown.get("transformer", sown)
    layers = {
        name: values[0]
        for name, values in sown.items()
        if name[:5] in ("layer", "block") and isinstance(values, tuple)
    }
    return features, layers, dict(updated.get("batch_stats", {}))


def residual_parts(
    model: CLIP, variables: Variables, images: Float[Array, "b s s 3"]
) -> tuple[Float[Array, "b d"], Float[Array, "b w"], Float[Array, "l b w"], Float[Array, "l b w"]]:
    """A ViT's features in evaluation mode, and what its class token is made of.

    That is the token after the first norm, what attention mixes for it in each layer, before the
    output's product, and what each MLP adds to it.
    """
    features, updated = _sowing(model.computed(scan=False, remat=False), variables, images, False)
    sown: Any = updated["intermediates"]["visual"]
    first, b = sown["first"][0], len(images)
    stack = sown["transformer"]
    blocks = [stack[f"blocks_{i}"] for i in range(model.variant.vision.layers)]
    mixed, mlps = (
        jnp.stack([block[name][0].reshape(b, -1, first.shape[-1])[:, 0] for block in blocks])
        for name in ("mixed", "mlp")
    )
    return features, first, mixed, mlps


def _sowing(
    model: CLIP, variables: Variables, images: Float[Array, "b s s 3"], train: bool
) -> tuple[Float[Array, "b d"], Any]:
    return model.apply(
        *(variables, images, train),
        method="image_features",
        mutable=["batch_stats", "intermediates"],
    )  # pyright: ignore[reportReturnType]


def encode_text(
    model: CLIP, variables: Variables, tokens: Int[Array, "b n"]
) -> Float[Array, "b d"]:
    """Un-normalised text features, float32 or better."""
    return model.apply(variables, tokens, method="text_features")  # pyright: ignore
