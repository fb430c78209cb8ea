"""Which layout a checkpoint's tensors are in, and of which numbers: every key accounted for."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS, Variant
from cleanclip_jax.start.torch.names import LAYOUTS, constants, rules

# Where a layout shows its numbers: the tables of tokens, of text positions and of the image
# tower's, the text projection, and what comes before and after a block's number.
_PLACES: dict[str, tuple[str, ...]] = {
    "openai": (
        *("token_embedding.weight", "positional_embedding", "visual.positional_embedding"),
        *("visual.conv1.weight", "text_projection"),
        *("transformer.resblocks.", "visual.transformer.resblocks.", ".mlp.c_fc.weight"),
    ),
    "huggingface": (
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "text_projection.weight",
        *("text_model.encoder.layers.", "vision_model.encoder.layers.", ".mlp.fc1.weight"),
    ),
}
_PLACES["open_clip"] = _PLACES["openai"]
_PLACES["open_clip_text"] = tuple(
    name if name.startswith(("visual", ".")) else f"text.{name}" for name in _PLACES["openai"]
)
# Parts of names by which other families are known.
_FOREIGN = {
    "logit_bias": "a SigLIP model, or one trained with its sigmoid loss",
    "vision_model.head.": "a SigLIP model with its attention pooling",
    "text_decoder.": "a CoCa model",
    "cls_emb": "a CoCa model's text tower",
    "visual.trunk.": "a model whose image tower is timm's",
    "visual.attn_pool.": "an image tower with attentional pooling",
    "text.transformer.embeddings.": "a model whose text tower is Hugging Face's",
    ".ls_1.": "a tower with layer scale",
}
# A checkpoint with a larger share of strange tensors is of another architecture, not damaged.
_STRANGE = 0.2
_SHOWN = 6


def find_layout(where: str, names: Sequence[str]) -> str:
    """Returns the layout whose names these are; another family's model is refused as such."""
    for name, (part, what) in itertools.product(names, _FOREIGN.items()):
        if part in name:
            raise UserError(
                f"{where} is {what} ({name}), which is not here: only CLIP's two towers are"
            )
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


def read_numbers(where: str, layout: str, tensors: Mapping[str, np.ndarray]) -> Variant:
    """The numbers that a checkpoint's shapes show, the others at their defaults.

    Refused: a tensor that is missing, left over or of another shape (all are named).
    """

    def size(name: str, axis: int) -> int:
        if name not in tensors:
            raise UserError(f"{where}: {name} is missing, so it is no whole CLIP")
        if tensors[name].ndim <= axis or not tensors[name].shape[axis]:
            raise UserError(f"{where}: {name} is {_by(tensors[name].shape)}, as no CLIP has it")
        return tensors[name].shape[axis]

    def count(stem: str) -> int:
        numbered = re.compile(rf"{re.escape(stem)}(\d{{1,4}})\.")
        there = {int(hit[1]) for hit in map(numbered.match, tensors) if hit}
        return next(i for i in itertools.count() if i not in there)

    tokens, positions, grid, patches, projection, text, vision, fc = _PLACES[layout]
    resnet = "visual.layer1.0.conv1.weight"
    shown: dict[str, Any] = {
        "features": size(projection, 0 if layout == "huggingface" else 1),
        "text_layers": count(text),
        "text_width": size(tokens, 1),
        "text_hidden": size(f"{text}0{fc}", 0),
        "context_length": size(positions, 0),
        "vocab_size": size(tokens, 0),
    }
    if resnet in tensors:
        depths = [count(f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]
        grid, step = "visual.attnpool.positional_embedding", 32
        shown |= {"vision_layers": tuple(depths), "vision_width": size(resnet, 0), "patch": 0}
    else:
        step = size(patches, 3)
        hidden = size(f"{vision}0{fc}", 0)
        shown |= {"vision_layers": count(vision), "vision_width": size(patches, 0), "patch": step}
        shown["vision_hidden"] = 0 if hidden == 4 * shown["vision_width"] else hidden
        shown["ln_pre"] = layout == "huggingface" or "visual.ln_pre.weight" in tensors
    if shown["text_hidden"] == 4 * shown["text_width"]:
        shown["text_hidden"] = 0
    shown["image_size"] = max(math.isqrt(max(size(grid, 0) - 1, 0)), 1) * step
    v = Variant(**shown, text_heads=1)
    problems = _problems(layout, v, tensors)
    if v.vocab_size < 3 or v.context_length < 3:
        problems.append(f"{tokens} and {positions} leave no room for a start, a word and an end")
    if problems:
        listed = "; ".join(problems[:_SHOWN])
        if len(problems) > _SHOWN:
            listed += f"; and {len(problems) - _SHOWN} more"
        strange = len(problems) > _STRANGE * len(tensors)
        what = "is of an architecture that is not here" if strange else "is no whole CLIP"
        raise UserError(f"{where} {what}: {listed}")
    return v


def guess_heads(where: str, format: str, v: Variant) -> Variant:
    """The numbers with heads, which no tensor shows: those of the variant of these shapes.

    Of a shape that has no name, and in OpenAI's and CleanCLIP's programs: 64 wide. Refused where
    that can't be.
    """
    named = format not in ("openai", "cleanclip")
    heads = [(known.text_heads, known.vision_head_width) for known in VARIANTS.values() if named]
    for text_heads, width in heads:
        guess = replace(v, text_heads=text_heads, vision_head_width=width)
        if name_of(guess):
            return guess
    if v.text_width % 64 or v.vision_width % (64 if v.patch else 2) or not v.ln_pre:
        raise UserError(
            f"{where}: {in_words(v)} is no architecture with a name, and its tensors don't show "
            "its heads: put its open_clip_config.json or config.json beside it, and name the folder"
        )
    return replace(v, text_heads=v.text_width // 64)


def name_of(v: Variant) -> str | None:
    """The variant of these numbers, whatever the sizes of its tables; None: it has no name."""

    def sized(known: Variant) -> Variant:
        tables = ("image_size", "context_length", "vocab_size")
        return replace(known, **{name: getattr(v, name) for name in tables})

    names = [name for name, known in VARIANTS.items() if sized(known) == v]
    return next((n for n in names if VARIANTS[n].image_size == v.image_size), (names or [None])[0])


def in_words(v: Variant) -> str:
    """An architecture's name, or its shape where it has none: ViT 12 x 896/16."""
    depths = v.vision_layers if isinstance(v.vision_layers, tuple) else (v.vision_layers,)
    kind = f"{'ViT' if v.patch else 'RN'} {'-'.join(map(str, depths))} x {v.vision_width}"
    kind += f"/{v.patch}" if v.patch else ""
    return name_of(v) or f"{kind} with text {v.text_layers} x {v.text_width}"


def _problems(layout: str, v: Variant, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """What of the tensors is not as the layout of a variant says, in words."""
    needed = rules(layout, v)
    fixed = constants(layout, v)
    missing, shapes, kinds, values = [], [], [], []
    for rule in needed:
        if rule.name not in tensors:
            missing.append(f"{rule.name} is missing")
            continue
        tensor = tensors[rule.name]
        if tensor.shape != rule.shape:
            shapes.append(f"{rule.name} is {_by(tensor.shape)}, not {_by(rule.shape)}")
        elif tensor.dtype.kind not in ("iu" if rule.counts else "fV"):  # V: bfloat16
            kinds.append(f"{rule.name} is of type {tensor.dtype}")
    for name, value in fixed.items():
        if name in tensors and not np.array_equal(tensors[name], value):
            tensor = tensors[name]
            how = f"{tensor}, not {value}" if tensor.ndim == 0 else "not 0, 1, 2 ..."
            values.append(f"{name} is {how}")
    known = {rule.name for rule in needed} | fixed.keys()
    left = [f"{name} is left over" for name in tensors if name not in known]
    return [*missing, *left, *shapes, *kinds, *values]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
