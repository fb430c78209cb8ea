"""Which layout a checkpoint's tensors are in, and of which variant: every key accounted for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS, Variant
from cleanclip_jax.start.torch.names import LAYOUTS, constants, rules

# Where a layout shows the sizes that a variant leaves open: rows of the text positions, of the
# vocabulary, and of the image positions of a vision transformer and of a ResNet.
_SIZES: dict[str, tuple[str, ...]] = {
    "openai": (
        "positional_embedding",
        "token_embedding.weight",
        "visual.positional_embedding",
        "visual.attnpool.positional_embedding",
    ),
    "huggingface": (
        "text_model.embeddings.position_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "",
    ),
}
_SIZES["open_clip"] = _SIZES["openai"]
_SIZES["open_clip_text"] = tuple(
    name if name.startswith("visual") else f"text.{name}" for name in _SIZES["openai"]
)
# A checkpoint with a larger share of strange tensors is of another architecture, not damaged.
_STRANGE = 0.2
_SHOWN = 6


def find_layout(where: str, names: Sequence[str]) -> str:
    """Returns the layout whose names these are."""
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return "huggingface"
    if any(name.startswith("text.") for name in names):
        return "open_clip_text"
    if any(name.startswith("visual.") for name in names):
        # The same names; which module comes first tells the programs apart.
        first = next((n for n in names if ".resblocks.0." in n), "")
        return "open_clip" if ".ln_1." in first else "openai"
    shown = ", ".join(list(names)[:3])
    raise UserError(
        f"{where} holds no CLIP in a layout of {', '.join(LAYOUTS)}: its tensors are "
        f"{shown or 'none'}"
    )


def find_variant_of(
    where: str, layout: str, tensors: Mapping[str, np.ndarray]
) -> tuple[str, Variant]:
    """Returns the variant of these tensors by name, and its numbers with their sizes put in.

    Refused: a tensor that is missing, left over or of another shape (all are named), and an
    architecture that is not of `models/variants.py`.
    """
    tried = []
    for name, variant in VARIANTS.items():
        if layout == "huggingface" and not variant.patch:
            continue
        numbers = _sized(variant, layout, tensors)
        problems = _problems(layout, numbers, tensors)
        tried.append((len(problems), numbers.image_size != variant.image_size, name))
        if not problems and numbers.image_size == variant.image_size:
            return name, numbers
    count, _, name = min(tried)
    numbers = _sized(VARIANTS[name], layout, tensors)
    if not count:
        return name, numbers
    problems = _problems(layout, numbers, tensors)
    listed = "; ".join(problems[:_SHOWN])
    if count > _SHOWN:
        listed += f"; and {count - _SHOWN} more"
    if count > _STRANGE * len(tensors):
        raise UserError(
            f"{where} is of an architecture that is not here (known: {', '.join(VARIANTS)}); "
            f"from {name}, the nearest, it differs in {count} tensors: {listed}"
        )
    raise UserError(f"{where} is no {name}: {listed}")


def _sized(v: Variant, layout: str, tensors: Mapping[str, np.ndarray]) -> Variant:
    """The variant with the sizes that the tensors show; as it is where they show none."""
    context, vocabulary, image, pool = (
        tensors[name].shape[0] if name in tensors and tensors[name].ndim else None
        for name in _SIZES[layout]
    )
    rows = image if v.patch else pool
    side = math.isqrt(rows - 1) if rows else 0
    square = rows is not None and side > 0 and side * side == rows - 1
    return replace(
        v,
        context_length=context or v.context_length,
        vocab_size=vocabulary or v.vocab_size,
        image_size=side * (v.patch or 32) if square else v.image_size,
    )


def _problems(layout: str, v: Variant, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """What of the tensors is not as the layout of a variant says, in words."""
    needed = rules(layout, v)
    fixed = constants(layout, v)
    missing, shapes, kinds, values = [], [], [], []
    for rule in needed:
        if rule.name not in tensors:
            missing.append(f"{rule.name} is missing")
            continue
        theirs = tensors[rule.name]
        if theirs.shape != rule.shape:
            shapes.append(f"{rule.name} is {_by(theirs.shape)}, not {_by(rule.shape)}")
        elif theirs.dtype.kind not in ("iu" if rule.counts else "fV"):  # V: bfloat16
            kinds.append(f"{rule.name} is of type {theirs.dtype}")
    for name, value in fixed.items():
        if name in tensors and not np.array_equal(tensors[name], value):
            theirs = tensors[name]
            how = f"{theirs}, not {value}" if theirs.ndim == 0 else "not 0, 1, 2 ..."
            values.append(f"{name} is {how}")
    known = {rule.name for rule in needed} | fixed.keys()
    left = [f"{name} is left over" for name in tensors if name not in known]
    return [*missing, *left, *shapes, *kinds, *values]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
