"""Checkpoints for PyTorch's programs: the file or folder, and what lies beside the tensors."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import folder_written_whole, written_whole
from cleanclip_jax.models.numbers import spelled
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch import SUFFIXES
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.start.torch.sidecars import OPEN_CLIP_CONFIG, folder_files
from cleanclip_jax.start.torch.torch_file import NOTE
from cleanclip_jax.text.tokenizer import END, START
from cleanclip_jax.views.normalise import MEAN, STD
from cleanclip_jax.workdir import TOKENIZER

# What Hugging Face's CLIPModel has one way alone.
_NOT_HUGGINGFACES = ("vision_pool", "ln_pre", "causal", "text_pool")
# The original decays no parameter whose name holds one of these.
_NOT_DECAYED = ("bn", "ln", "bias", "logit_scale")


def choose_format(dest: Path, wanted: str | None, origin: Origin | None) -> tuple[str, str]:
    """Returns the format and the layout that `dest` is written in.

    Where none is wanted it is the source's, and else follows from the name: a .pt file is
    CleanCLIP's, a .safetensors file open_clip's, a folder Hugging Face's.
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
    format = wanted or (origin.format if origin and fits[origin.format] else named)
    if not fits[format]:
        ending = ".pt" if format == "cleanclip" else ".pt or .safetensors"
        raise UserError(f"{dest}: a checkpoint in {format} format is a {ending} file")
    if not safe and not folder:
        import_torch()
    if origin is not None and origin.format == format:
        return format, origin.layout
    return format, "openai" if format == "cleanclip" else format


def check_holds(format: str, v: Variant, activation: str, named: bool) -> None:
    """Refuses a model that a format's programs would build otherwise from the same tensors.

    Args:
      named: whether the user named the activation, so that GELU goes to who runs QuickGELU.
    """
    first = astuple(v)[: [x.name for x in fields(v)].index("text_heads")]
    sizes = {"context_length": v.context_length, "vocab_size": v.vocab_size}
    usual: Variant = Variant(*first, v.text_width // 64, **sizes)  # pyright: ignore
    same = {"openai": None, "cleanclip": None, "huggingface": _NOT_HUGGINGFACES}.get(format, ())
    for name in [x.name for x in fields(v)] if same is None else same:
        value, built = getattr(v, name), getattr(usual, name)
        if value != built:
            raise UserError(
                f"the model's {name.replace('_', ' ')} is {value}, and {format} programs build it "
                f"with {built}: take --format open_clip"
            )
    if format in ("openai", "cleanclip") and activation != "quick_gelu" and not named:
        raise UserError(
            f"{format} programs run QuickGELU, and this model is of {activation}: take --format "
            f"open_clip or huggingface, or say --activation={activation} if yours runs that"
        )


def contract(variant: str, v: Variant, activation: str) -> dict[str, Any]:
    """What pictures and captions have to be for a checkpoint, and how its model computes."""
    return {
        "variant": variant,
        "activation": activation,
        "numbers": spelled(v),
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
            "end": v.vocab_size - 1 if v.text_end < 0 else v.text_end,
            "pad": 0,
        },
    }


def write_checkpoint(
    dest: Path,
    format: str,
    layout: str,
    tensors: Mapping[str, np.ndarray],
    origin: Origin | None,
    settings: Mapping[str, Any],
    v: Variant,
    tokenizer: str | None = None,
) -> None:
    """Writes a checkpoint whole or not at all.

    Args:
      dest: a file of torch.save or safetensors by its ending, else a folder.
      tensors: from `to_tensors`, in the layout.
      settings: from `contract`; written into the file, and a folder's JSON files say the same.
      tokenizer: `Tokenizer.as_json`, which lies in a folder where it is not CLIP's.
    """
    same = origin is not None and origin.format == format
    prefix = origin.prefix if same and origin else ""
    named = {prefix + name: x for name, x in tensors.items()}
    if dest.suffix not in SUFFIXES:
        with folder_written_whole(dest) as folder:
            files: dict[str, Any] = folder_files(format, origin if same else None, settings, v)
            if tokenizer is not None:
                (folder / TOKENIZER).write_text(tokenizer)
                files["tokenizer_config.json"] = {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "model_max_length": v.context_length,
                    # Padding is behind the end, whose first place counts: any id will do.
                    **{"bos_token": START, "eos_token": END, "pad_token": END},
                }
                if OPEN_CLIP_CONFIG in files:  # which else takes CLIP's, and says nothing
                    files[OPEN_CLIP_CONFIG]["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = (
                        TOKENIZER
                    )
            for name, content in files.items():
                (folder / name).write_text(json.dumps(content, indent=2) + "\n")
            name = "model" if format == "huggingface" else "open_clip_model"
            _save_safetensors(folder / f"{name}.safetensors", named, settings)
    elif dest.suffix == ".safetensors":
        with written_whole(dest) as scratch:
            _save_safetensors(scratch, named, settings)
    else:
        wrapper = (origin.wrapper if origin else None) or {}
        content: dict[str, Any] = named
        if format == "cleanclip" or (same and origin and origin.wrapper is not None):
            key = origin.key if same and origin else "state_dict"
            content = {"epoch": 0, "name": dest.stem, **wrapper, key: named}
        if format == "cleanclip":
            content["optimizer"] = _fresh_optimizer(tensors)
        with written_whole(dest) as scratch:
            write_torch_file(scratch, content, settings)


def _save_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> None:
    save_file(dict(tensors), path, {"format": "pt", "cleanclip": json.dumps(settings)})


def write_torch_file(path: Path, content: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """Writes `content` with torch.save, and `note` as a JSON record that torch.load passes over.

    Arrays in `content` and its dictionaries become tensors.
    """
    torch = import_torch()

    def saved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: saved(x) for name, x in value.items()}
        return as_tensor(value) if isinstance(value, np.ndarray) else value

    torch.save(saved(dict(content)), path)
    with zipfile.ZipFile(path, "a") as records:
        top = records.namelist()[0].partition("/")[0]
        records.writestr(f"{top}/{NOTE}", json.dumps(note, indent=1))


def as_tensor(values: np.ndarray) -> Any:
    """An array as a contiguous tensor, on the same memory where that is contiguous already."""
    torch = import_torch()
    values = np.asarray(values, order="C")
    if not values.flags.writeable:
        values = values.copy()
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def import_torch() -> Any:
    """Returns the module torch, which is an extra."""
    try:
        import torch
    except ImportError:
        raise UserError(
            "writing a .pt file needs PyTorch: pip install 'cleanclip-jax[torch]', or write a "
            ".safetensors file, which needs nothing"
        ) from None
    return torch


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
