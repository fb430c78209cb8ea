"""Checkpoints for PyTorch's programs: the file or folder, and what lies beside the tensors."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import folder_written_whole, written_whole
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.checkpoint import (
    CONFIG,
    OPEN_CLIP_CONFIG,
    PREPROCESSOR,
    SUFFIXES,
)
from cleanclip_jax.start.torch.pickle_file import import_torch, write_torch_file
from cleanclip_jax.start.torch.safetensors_file import write_safetensors
from cleanclip_jax.start.torch.tensors import Origin
from cleanclip_jax.views.normalise import MEAN, STD

# The original decays no parameter whose name holds one of these.
_NOT_DECAYED = ("bn", "ln", "bias", "logit_scale")


def choose_format(dest: Path, asked: str | None, origin: Origin | None) -> tuple[str, str]:
    """Returns the format and the layout that `dest` is written in.

    What is not asked for is the source's own, and else follows from the name: a .pt file is
    CleanCLIP's, a .safetensors file open_clip's, a folder Hugging Face's.

    Raises:
      UserError: the format is not written to such a file or folder.
    """
    folder = dest.suffix not in SUFFIXES
    safe = dest.suffix == ".safetensors"
    named = "huggingface" if folder else "open_clip" if safe else "cleanclip"
    fits = {
        "openai": not folder,
        "cleanclip": not folder and not safe,
        "open_clip": True,
        "open_clip_text": True,
        "huggingface": True,
    }
    own = origin.format if origin and fits[origin.format] else named
    format = asked or own
    if not fits[format]:
        wanted = ".pt" if format == "cleanclip" else ".pt or .safetensors"
        raise UserError(f"{dest}: a checkpoint in {format} format is a {wanted} file")
    if not safe and not folder:
        import_torch()
    if origin is not None and origin.format == format:
        return format, origin.layout
    return format, "openai" if format == "cleanclip" else format


def contract(variant: str, v: Variant, activation: str) -> dict[str, Any]:
    """What pictures and captions have to be for a checkpoint, and how its model computes."""
    return {
        "variant": variant,
        "activation": activation,
        "image": {
            "size": v.image_size,
            "resize": "short side to size, bicubic with antialiasing (Pillow's)",
            "crop": "centre",
            "scale": "to [0, 1]",
            "mean": [round(float(x), 8) for x in MEAN],
            "std": [round(float(x), 8) for x in STD],
        },
        "text": {
            "context_length": v.context_length,
            "vocab_size": v.vocab_size,
            "start": v.vocab_size - 2,
            "end": v.vocab_size - 1,
            "pad": 0,
        },
    }


def write_foreign(
    dest: Path,
    format: str,
    layout: str,
    tensors: Mapping[str, np.ndarray],
    origin: Origin | None,
    said: Mapping[str, Any],
    v: Variant,
) -> None:
    """Writes a checkpoint whole or not at all.

    Args:
      dest: a file of torch.save or safetensors by its ending, else a folder.
      tensors: from `interop.to_tensors`, in the layout.
      said: from `contract`; written into the file, and a folder's JSON files say the same.
    """
    same = origin is not None and origin.format == format
    prefix = origin.prefix if same and origin else ""
    named = {prefix + name: x for name, x in tensors.items()}
    if dest.suffix not in SUFFIXES:
        with folder_written_whole(dest) as folder:
            for name, content in folder_files(format, origin if same else None, said, v).items():
                (folder / name).write_text(json.dumps(content, indent=2) + "\n")
            name = "model" if format == "huggingface" else "open_clip_model"
            write_safetensors(folder / f"{name}.safetensors", named, _metadata(said))
    elif dest.suffix == ".safetensors":
        with written_whole(dest) as scratch:
            write_safetensors(scratch, named, _metadata(said))
    else:
        wrapper = (origin.wrapper if origin else None) or {}
        content: dict[str, Any] = named
        if format == "cleanclip" or (same and origin and origin.wrapper is not None):
            content = {"epoch": 0, "name": dest.stem, **wrapper, "state_dict": named}
        if format == "cleanclip":
            content["optimizer"] = _fresh_optimizer(tensors)
        with written_whole(dest) as scratch:
            write_torch_file(scratch, content, said)


def _metadata(said: Mapping[str, Any]) -> dict[str, str]:
    return {"cleanclip": json.dumps(said)}


def _fresh_optimizer(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The state of the original's AdamW before its first step: its loader asks for one.

    Moments are not carried over: a finetuning run here begins with fresh ones as well.
    """
    torch = import_torch()
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    names = [name for name in tensors if not name.endswith(buffers)]
    decayed = [n for n in names if not any(part in n for part in _NOT_DECAYED)]
    groups = [
        {"params": [torch.nn.Parameter(torch.empty(0)) for _ in chosen], "weight_decay": decay}
        for chosen, decay in (([n for n in names if n not in decayed], 0.0), (decayed, 0.1))
    ]
    options: dict[str, Any] = {"lr": 5e-4, "betas": (0.9, 0.999), "eps": 1e-8}  # the original's
    return torch.optim.AdamW(groups, **options).state_dict()


def folder_files(
    format: str, origin: Origin | None, said: Mapping[str, Any], v: Variant
) -> dict[str, dict[str, Any]]:
    """The JSON files of a folder: the source's own, with what has changed since, or new ones."""
    given = copy.deepcopy(origin.files) if origin else {}
    if format != "huggingface":
        content = given.get(OPEN_CLIP_CONFIG) or _open_clip_config(said, v)
        content["model_cfg"]["quick_gelu"] = said["activation"] == "quick_gelu"
        content["model_cfg"]["vision_cfg"]["image_size"] = v.image_size
        if format == "open_clip_text":
            content["model_cfg"]["custom_text"] = True
        return {OPEN_CLIP_CONFIG: content}
    config = given.get(CONFIG) or huggingface_config(v)
    for tower in ("text_config", "vision_config"):
        config[tower] = {**(config.get(tower) or {}), "hidden_act": said["activation"]}
    config["vision_config"]["image_size"] = v.image_size
    processor = given.get(PREPROCESSOR) or _processor(said)
    size, side = processor.get("size"), v.image_size
    processor["size"] = {"shortest_edge": side} if isinstance(size, dict) else side
    crop = processor.get("crop_size")
    processor["crop_size"] = {"height": side, "width": side} if isinstance(crop, dict) else side
    return {CONFIG: config, PREPROCESSOR: processor}


def _open_clip_config(said: Mapping[str, Any], v: Variant) -> dict[str, Any]:
    layers = list(v.vision_layers) if isinstance(v.vision_layers, tuple) else v.vision_layers
    return {
        "model_cfg": {
            "embed_dim": v.features,
            "vision_cfg": {
                "image_size": v.image_size,
                "layers": layers,
                "width": v.vision_width,
                "patch_size": v.patch or None,
            },
            "text_cfg": {
                "context_length": v.context_length,
                "vocab_size": v.vocab_size,
                "width": v.text_width,
                "heads": v.text_heads,
                "layers": v.text_layers,
            },
        },
        "preprocess_cfg": {
            "mean": said["image"]["mean"],
            "std": said["image"]["std"],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def huggingface_config(v: Variant) -> dict[str, Any]:
    """What Hugging Face's CLIPConfig takes, without the activation and the pictures' size."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": v.features,
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": v.text_width,
            "intermediate_size": 4 * v.text_width,
            "projection_dim": v.features,
            "num_hidden_layers": v.text_layers,
            "num_attention_heads": v.text_heads,
            "max_position_embeddings": v.context_length,
            "vocab_size": v.vocab_size,
            "layer_norm_eps": 1e-5,
            "bos_token_id": v.vocab_size - 2,
            "eos_token_id": v.vocab_size - 1,
            "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": v.vision_width,
            "intermediate_size": 4 * v.vision_width,
            "projection_dim": v.features,
            "num_hidden_layers": v.vision_layers,
            "num_attention_heads": v.vision_heads,
            "patch_size": v.patch,
            "num_channels": 3,
            "layer_norm_eps": 1e-5,
        },
    }


def _processor(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": said["image"]["size"]},
        "resample": 3,  # Pillow's bicubic
        "do_center_crop": True,
        "crop_size": {"height": said["image"]["size"], "width": said["image"]["size"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": said["image"]["mean"],
        "image_std": said["image"]["std"],
    }
