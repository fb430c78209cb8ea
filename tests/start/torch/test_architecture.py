"""Configs of Hugging Face and open_clip: keys are honoured as PyTorch runs them, or refused."""

import copy
import json

import numpy as np
import pytest
from helpers import layers
from helpers.torch_files import random_values
from safetensors.numpy import save_file

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build
from cleanclip_jax.models.numbers import spelled
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.architecture import of_huggingface, of_open_clip
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.sidecars import folder_files
from cleanclip_jax.start.torch.write import contract

VIT, RN = VARIANTS["ViT-test"], VARIANTS["RN-test"]


def config_of(format, v=VIT, activation="gelu"):
    return next(iter(folder_files(format, None, contract("it", v, activation), v).values()))


def changed(config, changes):
    """The config with other values: {"text_cfg.heads": 4}."""
    config = copy.deepcopy(config)
    for place, value in changes.items():
        *parents, last = place.split(".")
        node = config
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return config


def same_as_torch(folder, config, layout, read):
    """Asserts that a folder of random weights gives PyTorch's features, and comes back as it is."""
    pytest.importorskip("torch")
    described = read("it", config)
    names = {"huggingface": ("model.safetensors", "config.json")}
    weights, beside = names.get(layout, ("open_clip_model.safetensors", "open_clip_config.json"))
    folder.mkdir(exist_ok=True)
    values = random_values(layout, described.numbers)
    values = {name: x - x.mean() if x.ndim > 1 else x for name, x in values.items()}
    save_file(values, folder / weights)
    (folder / beside).write_text(json.dumps(config))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.numbers == described.numbers
    model = build(spelled(checkpoint.numbers), activation=checkpoint.activation)
    found = layers.compare(checkpoint, model, checkpoint.variables(), batch=3)
    assert max(d.relative for d in found) <= 1e-5, layers.table(found)
    settings = contract("it", checkpoint.numbers, checkpoint.activation)
    for origin in (checkpoint.origin, None):  # its own config again, and one made of the numbers
        again = folder_files(layout, origin, settings, checkpoint.numbers)[beside]
        assert read("it", again).numbers == described.numbers
        assert read("it", again).activation == described.activation


def slow(cases):
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


HUGGINGFACE = {
    "heads": {"text_config.num_attention_heads": 4, "vision_config.num_attention_heads": 2},
    "hidden": {"text_config.intermediate_size": 96, "vision_config.intermediate_size": 100},
    "epsilon": {"text_config.layer_norm_eps": 1e-3, "vision_config.layer_norm_eps": 1e-2},
    "tanh": {
        "text_config.hidden_act": "gelu_pytorch_tanh",
        "vision_config.hidden_act": "gelu_new",
    },
    "eos": {"text_config.eos_token_id": 9},
    "old eos": {"text_config.eos_token_id": 2},
    "dict": {
        "text_config_dict": {
            **config_of("huggingface")["text_config"],
            "num_attention_heads": 2,
            "layer_norm_eps": 1e-3,
        }
    },
}


DICT = HUGGINGFACE.pop("dict")
ALL = {place: x for case in HUGGINGFACE.values() for place, x in case.items()}


@pytest.mark.parametrize("case", ["dict", *slow(["all", *HUGGINGFACE])])
def test_a_key_of_hugging_faces_is_honoured(case, tmp_path):
    pytest.importorskip("transformers")
    changes = HUGGINGFACE | {"all": {**ALL, "text_config.eos_token_id": 9}, "dict": DICT}
    config = changed(config_of("huggingface"), changes[case])
    same_as_torch(tmp_path / "hf", config, "huggingface", of_huggingface)


OPEN_CLIP = {
    "heads": {"text_cfg.heads": 4, "vision_cfg.head_width": 32},
    "hidden": {"text_cfg.mlp_ratio": 3.1, "vision_cfg.mlp_ratio": 4.3637},
    "epsilon": {"text_cfg.norm_kwargs": {"eps": 1e-3}, "vision_cfg.norm_kwargs": {"eps": 1e-2}},
    "tanh": {
        "text_cfg.act_kwargs": {"approximate": "tanh"},
        "vision_cfg.act_kwargs": {"approximate": "tanh"},
    },
    "quick": {"quick_gelu": True},
    "average": {"vision_cfg.pool_type": "avg"},
    "average, then norm": {"vision_cfg.pool_type": "avg", "vision_cfg.final_ln_after_pool": True},
    "norm after the class token": {"vision_cfg.final_ln_after_pool": True},
    "no first norm": {"vision_cfg.no_ln_pre": True},
    "eos": {"text_cfg.pool_type": "eos", "text_cfg.eos_id": 9},
    "first": {"text_cfg.pool_type": "first"},
    "last": {"text_cfg.pool_type": "last"},
    "no mask": {"text_cfg.no_causal_mask": True},
    "inert": {"text_cfg.pad_id": 5, "vision_cfg.timm_pool": "", "init_logit_scale": 1.0},
}


def open_clip(changes, v=VIT):
    config = config_of("open_clip", v)
    return changed(config, {f"model_cfg.{place}": x for place, x in changes.items()})


# Several at once, which in make test stand for each.
TOGETHER = {
    "one": ("heads", "hidden", "epsilon", "tanh", "average, then norm", "no first norm", "eos"),
    "two": ("heads", "hidden", "quick", "average", "last", "no mask"),
}


@pytest.mark.parametrize("case", [*TOGETHER, *slow(OPEN_CLIP)])
def test_a_key_of_open_clips_is_honoured(case, tmp_path):
    parts = [OPEN_CLIP[name] for name in TOGETHER.get(case, (case,))]
    config = open_clip({place: x for part in parts for place, x in part.items()})
    same_as_torch(tmp_path / "oc", config, "open_clip", of_open_clip)


# Widths of layers, of heads and depths; ratio of the MLPs; the text tower's width, heads; others.
ARCHITECTURES = {
    "ViT-B-32-quickgelu": ({"width": 768, "patch_size": 32}, (512, 8), {"quick_gelu": True}),
    "ViT-B-16": ({"width": 768, "patch_size": 16}, (512, 8), {}),
    "ViT-B-16-plus-240": ({"width": 896, "patch_size": 16}, (640, 10), {}),
    "ViT-L-14-336": ({"width": 1024, "patch_size": 14}, (768, 12), {}),
    "ViT-H-14": ({"width": 1280, "head_width": 80, "patch_size": 14}, (1024, 16), {}),
    "ViT-g-14": (
        {"width": 1408, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14},
        (1024, 16),
        {},
    ),
    "ViT-bigG-14": (
        {"width": 1664, "head_width": 104, "mlp_ratio": 4.9231, "patch_size": 14},
        (1280, 20),
        {},
    ),
    "ViT-L-14-worldwide": (
        {"width": 1024, "patch_size": 14},
        (768, 12),
        {
            "text_cfg.pool_type": "eos",
            "text_cfg.eos_id": 1,
            "text_cfg.hf_tokenizer_name": "google/mt5-base",
            "text_cfg.tokenizer_kwargs": {"clean": "canonicalize"},
        },
    ),
    "ViT-H-14-CLIPA": (
        {
            **{"width": 1280, "head_width": 80, "patch_size": 14, "no_ln_pre": True},
            **{"pool_type": "avg", "final_ln_after_pool": True},
        },
        (1024, 16),
        {
            "text_cfg.pool_type": "last",
            "text_cfg.no_causal_mask": True,
            "text_cfg.hf_tokenizer_name": "bert-base-uncased",
        },
    ),
    "RN50x64": ({"width": 128, "layers": [3, 15, 36, 10]}, (1024, 16), {}),
    "RN50x4": ({"width": 80, "layers": [4, 6, 10, 6]}, (640, 10), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["open_clip", "open_clip_text"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_architectures_at_an_eighth_of_their_width(name, layout, tmp_path):
    image, (width, heads), more = ARCHITECTURES[name]
    small = image | {"width": image["width"] // 8, "head_width": image.get("head_width", 64) // 8}
    if "layers" in image:
        small |= {"layers": [1, 2, 1, 1], "image_size": 64, "patch_size": None}
    else:
        small |= {"layers": 2, "image_size": 3 * image["patch_size"]}
    text = {"width": width // 8, "heads": heads, "layers": 2}
    text |= {"vocab_size": 100, "context_length": 16}
    model = {"embed_dim": 40, "vision_cfg": small, "text_cfg": text}
    config = changed({"model_cfg": model}, {f"model_cfg.{place}": x for place, x in more.items()})
    same_as_torch(tmp_path / "oc", config, layout, of_open_clip)
    checkpoint = open_checkpoint(tmp_path / "oc")
    assert checkpoint.config().text.tokenizer == "unknown"
    assert any("tokenizer is not CLIP's" in note for note in checkpoint.notes) == (
        "text_cfg.hf_tokenizer_name" in more
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quick_gelu": "false"}, r"quick_gelu is 'false': it takes True or False"),
        ({"vision_cfg.ls_init_value": 1e-5}, "ls_init_value is 1e-05: it takes None alone"),
        ({"vision_cfg.attentional_pool": True}, "attentional_pool is True"),
        ({"vision_cfg.pool_type": "none"}, "vision_cfg.pool_type: unknown 'none'"),
        ({"vision_cfg.timm_model_name": "vit_base"}, "timm's towers are not here"),
        ({"vision_cfg.pos_embed_type": "sin_cos_2d"}, "pos_embed_type is 'sin_cos_2d'"),
        ({"vision_cfg.future_key": 1}, "vision_cfg: unknown 'future_key'"),
        ({"vision_cfg.qk_norm": True}, "qk_norm is True"),
        ({"vision_cfg.head_width": 7}, "does not divide by 7"),
        ({"vision_cfg.width": "64"}, "width is '64'"),
        ({"vision_cfg.image_size": [32, 48]}, "image_size is"),
        ({"vision_cfg": []}, "vision_cfg is"),
        ({"text_cfg.embed_cls": True}, "embed_cls is True"),
        ({"text_cfg.proj_type": "none"}, "proj_type is 'none'"),
        ({"text_cfg.hf_model_name": "roberta-base"}, "Hugging Face's towers are not here"),
        ({"text_cfg.act_kwargs": {"approximate": "tanh"}}, "act_kwargs: the image tower's is gelu"),
        ({"text_cfg.norm_kwargs": {"bias": False}}, "norm_kwargs: unknown 'bias'"),
        ({"text_cfg.heads": 3}, "text_width 64 does not divide by 3"),
        ({"text_cfg.pool_type": "eos", "text_cfg.eos_id": 300}, "eos_id 300 is no id"),
        ({"text_cfg.layers": 3}, "says text layers 3, and the tensors have 2"),
        ({"init_logit_bias": -10}, "SigLIP is not here"),
        ({"multimodal_cfg": {"layers": 12}}, "CoCa is not here"),
        ({"embed_dim": None}, "embed_dim is missing"),
    ],
)
def test_what_open_clips_config_asks_for_beyond_is_refused_by_name(changes, message, tmp_path):
    save_file(random_values("open_clip", VIT), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip(changes)))
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "metaclip_2"}, "model_type: unknown 'metaclip_2'"),
        ({"text_config.model_type": "siglip_text_model"}, "text_config.model_type: unknown"),
        ({"text_config.num_attention_heads": 3}, "text_width 64 does not divide by 3"),
        ({"vision_config.num_attention_heads": 48}, "48 heads do not divide the width 64"),
        ({"vision_config.hidden_act": "relu"}, "hidden_act: unknown 'relu'"),
        ({"vision_config.hidden_act": "quick_gelu"}, "image tower's is quick_gelu, the text tower"),
        ({"vision_config.num_channels": 4}, "num_channels is 4"),
        ({"vision_config.layer_norm_eps": "1e-5"}, "layer_norm_eps is '1e-5'"),
        ({"text_config.eos_token_id": 49407}, "eos_token_id 49407 is no id of a vocabulary of 300"),
        ({"text_config.eos_token_id": None}, "eos_token_id is null"),
        ({"text_config": [1]}, "text_config is"),
        ({"text_config_dict": 3}, "text_config_dict is 3"),
        ({"vision_config_dict": {"hidden_act": "gelu"}}, "says image size 224, and the tensors"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    ],
)
def test_what_hugging_faces_config_asks_for_beyond_is_refused_by_name(changes, message, tmp_path):
    save_file(random_values("huggingface", VIT), tmp_path / "model.safetensors")
    config = changed(config_of("huggingface"), changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_resnets_heads_are_its_configs(tmp_path):
    numbers = of_open_clip("it", open_clip({"vision_cfg.head_width": 16}, RN)).numbers
    assert numbers.vision_heads == 32 * RN.vision_width // 16
    assert np.isclose(numbers.vision_epsilon, 1e-5)
