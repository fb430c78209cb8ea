"""CLIP's published architecture in PyTorch, to hold ours against: features and each layer's output.

It reads a checkpoint's tensors under their own names and knows nothing of our rules; only the
outputs are recorded under our modules' names.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cleanclip_jax.start.torch.checkpoint import Checkpoint
from cleanclip_jax.start.torch.sidecars import CONFIG, OPEN_CLIP_CONFIG, huggingface_config
from cleanclip_jax.start.torch.write import as_tensor

Outputs = dict[str, np.ndarray]


def reference_outputs(checkpoint: Checkpoint, images: np.ndarray, tokens: np.ndarray) -> Outputs:
    """Runs a checkpoint in PyTorch, in float32 and evaluation mode.

    Hugging Face's are run by their own CLIPModel, the others by what is here.

    Args:
      images: [b, s, s, 3], normalised.
      tokens: [b, n].

    Returns:
      the outputs of the layers and, as 'visual' and 'text', the un-normalised features; pictures'
      maps are [b, h, w, c].
    """
    import torch

    pictures = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.inference_mode():
        if checkpoint.origin.layout == "huggingface":
            return _huggingface(torch, checkpoint, pictures, ids)
        weights = {name: _float32(torch, x) for name, x in checkpoint.tensors.items()}
        return _OpenAI(torch, checkpoint, weights).run(pictures, ids)


def _float32(torch: Any, values: np.ndarray) -> Any:
    return as_tensor(values).to(torch.float32)


class _OpenAI:
    """Both towers as functions of a state dict in OpenAI's or open_clip's names."""

    def __init__(self, torch: Any, checkpoint: Checkpoint, weights: Mapping[str, Any]):
        self.torch, self.f = torch, torch.nn.functional
        self.v, self.weights = checkpoint.numbers, weights
        self.image, self.words, self.activation = self.settings(checkpoint)
        self.text = "text." if checkpoint.origin.layout == "open_clip_text" else ""
        self.outputs: Outputs = {}

    def settings(self, checkpoint: Checkpoint) -> tuple[Any, Any, Callable[[Any], Any]]:
        """Both towers' keys and the activation as open_clip reads its config, if there is one."""
        quick = {"quick_gelu": lambda x: x * self.torch.sigmoid(1.702 * x)}
        plain = quick | {"gelu": self.f.gelu}
        content = checkpoint.origin.files.get(OPEN_CLIP_CONFIG)
        if content is None:
            image = {"width": self.v.vision_width}
            words = {"width": self.v.text_width, "heads": self.v.text_width // 64}
            return image, words, plain[checkpoint.activation]
        model = content["model_cfg"]
        words = {"width": 512, "heads": 8, **model["text_cfg"]}
        image = {"width": 768, **model["vision_cfg"]}
        if model.get("quick_gelu", False):
            return image, words, quick["quick_gelu"]
        options = words.get("act_kwargs") or {}
        return image, words, lambda x: self.f.gelu(x, **options)

    def run(self, pictures: Any, ids: Any) -> Outputs:
        image = self.vision_transformer(pictures) if self.v.patch else self.resnet(pictures)
        self.record("visual", image)
        self.record("text", self.text_tower(ids))
        return self.outputs

    def record(self, name: str, x: Any) -> Any:
        """Records an output under our module's name."""
        y = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
        self.outputs[name] = y.numpy().copy()
        return x

    def norm(self, x: Any, name: str) -> Any:
        w, tower = self.weights, self.image if name.startswith("visual") else self.words
        epsilon = (tower.get("norm_kwargs") or {}).get("eps", 1e-5)
        return self.f.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], epsilon)

    def linear(self, x: Any, name: str) -> Any:
        return self.f.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def attend(self, q: Any, k: Any, v: Any, heads: int, causal: bool = False) -> Any:
        """Multi-head attention of [b, n, w]."""
        split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
        mixed = self.f.scaled_dot_product_attention(*split, is_causal=causal)
        return mixed.transpose(1, 2).flatten(2)

    def transformer(self, x: Any, name: str, ours: str, heads: int, causal: bool) -> Any:
        stem = f"{name}.resblocks."
        numbers = {
            int(n.removeprefix(stem).split(".")[0]) for n in self.weights if n.startswith(stem)
        }
        for i in sorted(numbers):
            block = f"{name}.resblocks.{i}"
            attention = f"{block}.attn"
            packed = self.f.linear(
                self.norm(x, f"{block}.ln_1"),
                self.weights[f"{attention}.in_proj_weight"],
                self.weights[f"{attention}.in_proj_bias"],
            )
            mixed = self.attend(*packed.chunk(3, -1), heads, causal)
            x = x + self.linear(mixed, f"{attention}.out_proj")
            hidden = self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + self.linear(self.activation(hidden), f"{block}.mlp.c_proj")
            self.record(f"{ours}/transformer/blocks_{i}", x)
        return x

    def text_tower(self, ids: Any) -> Any:
        w, name, causal = self.weights, self.text, not self.words.get("no_causal_mask", False)
        x = w[f"{name}token_embedding.weight"][ids] + w[f"{name}positional_embedding"]
        x = self.transformer(x, f"{name}transformer", "text", self.words["heads"], causal)
        x = self.record("text/ln_final", self.norm(x, f"{name}ln_final"))
        places = {
            "first": self.torch.zeros_like(ids[:, 0]),
            "last": self.torch.full_like(ids[:, 0], ids.shape[1] - 1),
            "argmax": ids.argmax(-1),
            "eos": (ids == self.words.get("eos_id", 2)).int().argmax(-1),
        }
        place = places[self.words.get("pool_type", "argmax")]
        return x[self.torch.arange(len(x)), place] @ w[f"{name}text_projection"]

    def vision_transformer(self, pictures: Any) -> Any:
        w = self.weights
        x = self.f.conv2d(pictures, w["visual.conv1.weight"], stride=self.v.patch)
        x = x.flatten(2).transpose(1, 2)
        first = w["visual.class_embedding"].expand(len(x), 1, -1)
        x = self.torch.cat([first, x], 1) + w["visual.positional_embedding"]
        if not self.image.get("no_ln_pre", False):
            x = self.record("visual/ln_pre", self.norm(x, "visual.ln_pre"))
        heads = self.image["width"] // self.image.get("head_width", 64)
        x = self.transformer(x, "visual.transformer", "visual", heads, False)
        average = self.image.get("pool_type", "tok") == "avg"

        def pool(x: Any) -> Any:
            return x[:, 1:].mean(1) if average else x[:, 0]

        if average and not self.image.get("final_ln_after_pool", False):
            x = pool(self.record("visual/ln_post", self.norm(x, "visual.ln_post")))
        else:
            x = self.record("visual/ln_post", self.norm(pool(x), "visual.ln_post"))
        return x @ w["visual.proj"]

    def convolve(self, x: Any, name: str, norm: str, ours: str, stride: int = 1) -> Any:
        """A convolution and its batch norm; `ours` names the norm."""
        w, kernel = self.weights, self.weights[f"{name}.weight"]
        x = self.f.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        named = (w[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return self.record(ours, self.f.batch_norm(x, *named, eps=1e-5))

    def resnet(self, pictures: Any) -> Any:
        assert isinstance(self.v.vision_layers, tuple)
        w, relu, x = self.weights, self.f.relu, pictures
        for i, stride in ((1, 2), (2, 1), (3, 1)):
            name = f"visual.conv{i}", f"visual.bn{i}", f"visual/bn{i}"
            x = relu(self.convolve(x, *name, stride))
        x = self.f.avg_pool2d(x, 2)
        for stage, depth in enumerate(self.v.vision_layers, start=1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                x = self.bottleneck(x, f"visual.layer{stage}.{i}", stride)
                self.record(f"visual/layer{stage}_{i}", x)
        x = x.flatten(2).transpose(1, 2)
        x = self.torch.cat([x.mean(1, keepdim=True), x], 1)
        x = x + w["visual.attnpool.positional_embedding"]
        heads = 32 * self.image["width"] // self.image.get("head_width", 64)
        q, k, v = (self.linear(x, f"visual.attnpool.{letter}_proj") for letter in "qkv")
        x = self.attend(q[:, :1], k, v, heads)[:, 0]
        return self.linear(x, "visual.attnpool.c_proj")

    def bottleneck(self, x: Any, name: str, stride: int) -> Any:
        ours = name.replace(".", "/", 1).replace(".", "_")
        out = self.f.relu(self.convolve(x, f"{name}.conv1", f"{name}.bn1", f"{ours}/bn1"))
        out = self.f.relu(self.convolve(out, f"{name}.conv2", f"{name}.bn2", f"{ours}/bn2"))
        if stride > 1:
            out, x = self.f.avg_pool2d(out, stride), self.f.avg_pool2d(x, stride)
        out = self.convolve(out, f"{name}.conv3", f"{name}.bn3", f"{ours}/bn3")
        if f"{name}.downsample.0.weight" in self.weights:
            short = f"{name}.downsample.0", f"{name}.downsample.1", f"{ours}/downsample_bn"
            x = self.convolve(x, *short)
        return self.f.relu(out + x)


def _huggingface(torch: Any, checkpoint: Checkpoint, pictures: Any, ids: Any) -> Outputs:
    model = load_huggingface(checkpoint)
    outputs: Outputs = {}
    v = checkpoint.numbers
    assert isinstance(v.vision_layers, int)
    places = {
        "visual/ln_pre": "vision_model.pre_layrnorm",
        "visual/ln_post": "vision_model.post_layernorm",
        "text/ln_final": "text_model.final_layer_norm",
        "visual": "visual_projection",
        "text": "text_projection",
    }
    for ours, tower, layers in (
        ("visual", "vision_model", v.vision_layers),
        ("text", "text_model", v.text_layers),
    ):
        for i in range(layers):
            places[f"{ours}/transformer/blocks_{i}"] = f"{tower}.encoder.layers.{i}"

    def recorder(name: str) -> Callable[[Any, Any, Any], None]:
        def record(_module: Any, _inputs: Any, output: Any) -> None:
            first = output if isinstance(output, torch.Tensor) else output[0]
            outputs[name] = first.detach().numpy().copy()

        return record

    for ours, theirs in places.items():
        model.get_submodule(theirs).register_forward_hook(recorder(ours))
    model(input_ids=ids, pixel_values=pictures)
    return outputs


def load_huggingface(checkpoint: Checkpoint) -> Any:
    """Returns a checkpoint in Hugging Face's own CLIPModel, float32, in evaluation mode."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    config = copy.deepcopy(checkpoint.origin.files.get(CONFIG))
    if config is None:
        config = huggingface_config(checkpoint.numbers)
        for tower in ("text_config", "vision_config"):
            config[tower]["hidden_act"] = checkpoint.activation
        config["vision_config"]["image_size"] = checkpoint.numbers.image_size
    # Its buffers are made on the CPU, its parameters are replaced by the file's.
    model = CLIPModel(CLIPConfig(**config)).eval()
    weights = {
        name: _float32(torch, x)
        for name, x in checkpoint.tensors.items()
        if not name.endswith("position_ids")
    }
    model.load_state_dict(weights, strict=True, assign=True)
    return model
