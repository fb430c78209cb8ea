"""PyTorch's names and shapes of CLIP's tensors, one rule a tensor, in each layout's order."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import Stack, Variant

# OpenAI's and CleanCLIP's module order within a block, open_clip's, and open_clip's second text
# layout (CustomTextCLIP: the text tower below `text.`); Hugging Face's CLIPModel.
LAYOUTS = ("openai", "open_clip", "open_clip_text", "huggingface")


@dataclass(frozen=True)
class Rule:
    """How one tensor of PyTorch's becomes one of ours, or a third of one.

    Attributes:
      name: in the checkpoint.
      path: ours, 'params/visual/projection'; '' for a batch norm's counter, which we derive.
      shape: in the checkpoint.
      turn: same | transpose | kernel (their [out, in, h, w] is our [h, w, in, out]).
      third: of our last axis (0 queries, 1 keys, 2 values); None: all of it.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    turn: str = "same"
    third: int | None = None

    def to_ours(self, values: np.ndarray) -> np.ndarray:
        """Their values as ours: a view."""
        axes = {"same": None, "transpose": (1, 0), "kernel": (2, 3, 1, 0)}[self.turn]
        return values.transpose(axes) if axes else values

    def to_torch(self, ours: np.ndarray) -> np.ndarray:
        """Our values, those of the whole path, as the checkpoint's: a view."""
        if self.third is not None:
            size = ours.shape[-1] // 3
            ours = ours[..., self.third * size : (self.third + 1) * size]
        axes = {"same": None, "transpose": (1, 0), "kernel": (3, 2, 0, 1)}[self.turn]
        return ours.transpose(axes) if axes else ours

    @property
    def counts(self) -> bool:
        """Whether this is a batch norm's num_batches_tracked."""
        return not self.path


@functools.cache
def rules(layout: str, v: Variant) -> tuple[Rule, ...]:
    """Every tensor that a checkpoint of the variant has in a layout, in that layout's order."""
    if layout == "huggingface":
        if not v.patch:
            raise UserError(
                "Hugging Face's CLIPModel has no ResNet: take --format openai, open_clip or "
                "cleanclip"
            )
        return tuple(_huggingface(v))
    text = list(_text(v, layout))
    if layout == "open_clip_text":
        text = [replace(rule, name=f"text.{rule.name}") for rule in text]
        # There the text tower is a module of its own, so its parameters come with it.
        return (Rule("logit_scale", "params/logit_scale", ()), *_visual(v, layout), *text)
    parameters, modules = text[:2], text[2:]
    tail = [rule for rule in modules if not rule.name.startswith("transformer.")]
    blocks = [rule for rule in modules if rule.name.startswith("transformer.")]
    scale = Rule("logit_scale", "params/logit_scale", ())
    return (*parameters, scale, *_visual(v, layout), *blocks, *tail)


def constants(layout: str, v: Variant) -> dict[str, np.ndarray]:
    """What a checkpoint of the variant may hold beside its weights, and then with these values."""
    if layout == "huggingface":
        if not v.patch:
            return {}
        patches = (v.image_size // v.patch) ** 2
        return {
            "text_model.embeddings.position_ids": np.arange(v.context_length)[None],
            "vision_model.embeddings.position_ids": np.arange(patches + 1)[None],
        }
    sizes = {
        "input_resolution": v.image_size,
        "context_length": v.context_length,
        "vocab_size": v.vocab_size,
    }
    return {name: np.asarray(size) for name, size in sizes.items()}


def _text(v: Variant, layout: str) -> Iterator[Rule]:
    w = v.text_width
    yield Rule("positional_embedding", "params/text/positions", (v.context_length, w))
    yield Rule("text_projection", "params/text/projection", (w, v.features))
    yield Rule("token_embedding.weight", "params/text/token_embedding", (v.vocab_size, w))
    yield from _blocks("transformer", "params/text/transformer", v.text, layout)
    yield from _norm("ln_final", "params/text/ln_final", w)


def _visual(v: Variant, layout: str) -> Iterator[Rule]:
    if not v.patch:
        yield from _resnet(v)
        return
    w, p = v.vision_width, v.patch
    tokens = (v.image_size // p) ** 2 + 1
    ours = "params/visual"
    yield Rule("visual.class_embedding", f"{ours}/class_token", (w,))
    yield Rule("visual.positional_embedding", f"{ours}/positions", (tokens, w))
    yield Rule("visual.proj", f"{ours}/projection", (w, v.features))
    yield Rule("visual.conv1.weight", f"{ours}/patch_kernel", (w, 3, p, p), "kernel")
    if v.ln_pre:
        yield from _norm("visual.ln_pre", f"{ours}/ln_pre", w)
    yield from _blocks("visual.transformer", f"{ours}/transformer", v.vision, layout)
    yield from _norm("visual.ln_post", f"{ours}/ln_post", w)


def _norm(torch_name: str, ours: str, width: int) -> Iterator[Rule]:
    yield Rule(f"{torch_name}.weight", f"{ours}/norm/scale", (width,))
    yield Rule(f"{torch_name}.bias", f"{ours}/norm/bias", (width,))


def _linear(torch_name: str, ours: str, inputs: int, outputs: int) -> Iterator[Rule]:
    yield Rule(f"{torch_name}.weight", f"{ours}/kernel", (outputs, inputs), "transpose")
    yield Rule(f"{torch_name}.bias", f"{ours}/bias", (outputs,))


def _blocks(torch_name: str, ours: str, stack: Stack, layout: str) -> Iterator[Rule]:
    w, hidden = stack.width, stack.hidden
    for i in range(stack.layers):
        t, o = f"{torch_name}.resblocks.{i}", f"{ours}/blocks_{i}"
        attention = [
            Rule(f"{t}.attn.in_proj_weight", f"{o}/qkv/kernel", (3 * w, w), "transpose"),
            Rule(f"{t}.attn.in_proj_bias", f"{o}/qkv/bias", (3 * w,)),
            *_linear(f"{t}.attn.out_proj", f"{o}/out", w, w),
        ]
        mlp = [
            *_linear(f"{t}.mlp.c_fc", f"{o}/fc", w, hidden),
            *_linear(f"{t}.mlp.c_proj", f"{o}/proj", hidden, w),
        ]
        ln_1, ln_2 = (list(_norm(f"{t}.{name}", f"{o}/{name}", w)) for name in ("ln_1", "ln_2"))
        # The modules are the same; each program makes them in another order.
        if layout == "openai":
            yield from (*attention, *ln_1, *mlp, *ln_2)
        else:
            yield from (*ln_1, *attention, *ln_2, *mlp)


def _batch_norm(torch_name: str, ours: str, width: int) -> Iterator[Rule]:
    yield Rule(f"{torch_name}.weight", f"params/{ours}/scale", (width,))
    yield Rule(f"{torch_name}.bias", f"params/{ours}/bias", (width,))
    yield Rule(f"{torch_name}.running_mean", f"batch_stats/{ours}/mean", (width,))
    yield Rule(f"{torch_name}.running_var", f"batch_stats/{ours}/var", (width,))
    yield Rule(f"{torch_name}.num_batches_tracked", "", ())


def _convolution(torch_name: str, ours: str, inputs: int, outputs: int, side: int) -> Rule:
    shape = (outputs, inputs, side, side)
    return Rule(f"{torch_name}.weight", f"params/{ours}/kernel", shape, "kernel")


def _resnet(v: Variant) -> Iterator[Rule]:
    assert isinstance(v.vision_layers, tuple)
    w = v.vision_width
    for i, (inputs, outputs) in enumerate([(3, w // 2), (w // 2, w // 2), (w // 2, w)], start=1):
        yield _convolution(f"visual.conv{i}", f"visual/conv{i}", inputs, outputs, 3)
        yield from _batch_norm(f"visual.bn{i}", f"visual/bn{i}", outputs)
    inputs = w
    for stage, depth in enumerate(v.vision_layers):
        planes = w * 2**stage
        for i in range(depth):
            t, o = f"visual.layer{stage + 1}.{i}", f"visual/layer{stage + 1}_{i}"
            sizes = [(inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)]
            for n, (before, after, side) in enumerate(sizes, start=1):
                yield _convolution(f"{t}.conv{n}", f"{o}/conv{n}", before, after, side)
                yield from _batch_norm(f"{t}.bn{n}", f"{o}/bn{n}", after)
            if i == 0:
                short = f"{t}.downsample", f"{o}/downsample"
                yield _convolution(f"{short[0]}.0", f"{short[1]}_conv", inputs, 4 * planes, 1)
                yield from _batch_norm(f"{short[0]}.1", f"{short[1]}_bn", 4 * planes)
            inputs = 4 * planes
    tokens = (v.image_size // 32) ** 2 + 1
    t, o = "visual.attnpool", "params/visual/attnpool"
    yield Rule(f"{t}.positional_embedding", f"{o}/positions", (tokens, inputs))
    for letter, name in {"k": "key", "q": "query", "v": "value"}.items():
        yield from _linear(f"{t}.{letter}_proj", f"{o}/{name}", inputs, inputs)
    yield from _linear(f"{t}.c_proj", f"{o}/out", inputs, v.features)


def _huggingface(v: Variant) -> Iterator[Rule]:
    w, p, text = v.vision_width, v.patch, v.text_width
    tokens = (v.image_size // p) ** 2 + 1
    yield Rule("logit_scale", "params/logit_scale", ())
    t, o = "text_model.embeddings", "params/text"
    yield Rule(f"{t}.token_embedding.weight", f"{o}/token_embedding", (v.vocab_size, text))
    yield Rule(f"{t}.position_embedding.weight", f"{o}/positions", (v.context_length, text))
    yield from _huggingface_layers("text_model", f"{o}/transformer", v.text)
    yield from _norm("text_model.final_layer_norm", f"{o}/ln_final", text)
    t, o = "vision_model.embeddings", "params/visual"
    yield Rule(f"{t}.class_embedding", f"{o}/class_token", (w,))
    yield Rule(f"{t}.patch_embedding.weight", f"{o}/patch_kernel", (w, 3, p, p), "kernel")
    yield Rule(f"{t}.position_embedding.weight", f"{o}/positions", (tokens, w))
    yield from _norm("vision_model.pre_layrnorm", f"{o}/ln_pre", w)  # their spelling
    yield from _huggingface_layers("vision_model", f"{o}/transformer", v.vision)
    yield from _norm("vision_model.post_layernorm", f"{o}/ln_post", w)
    # OpenAI multiplies by [width, features]; here they are linear layers.
    for name, ours, size in (("visual", "visual", w), ("text", "text", text)):
        path = f"params/{ours}/projection"
        yield Rule(f"{name}_projection.weight", path, (v.features, size), "transpose")


def _huggingface_layers(torch_name: str, ours: str, stack: Stack) -> Iterator[Rule]:
    w, hidden = stack.width, stack.hidden
    for i in range(stack.layers):
        t, o = f"{torch_name}.encoder.layers.{i}", f"{ours}/blocks_{i}"
        for letter, third in (("k", 1), ("v", 2), ("q", 0)):
            for rule in _linear(f"{t}.self_attn.{letter}_proj", f"{o}/qkv", w, w):
                yield replace(rule, third=third)
        yield from _linear(f"{t}.self_attn.out_proj", f"{o}/out", w, w)
        yield from _norm(f"{t}.layer_norm1", f"{o}/ln_1", w)
        yield from _linear(f"{t}.mlp.fc1", f"{o}/fc", w, hidden)
        yield from _linear(f"{t}.mlp.fc2", f"{o}/proj", hidden, w)
        yield from _norm(f"{t}.layer_norm2", f"{o}/ln_2", w)
