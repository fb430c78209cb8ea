"""The JSON files beside a checkpoint's weights: which they are, what they say, how new ones are."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json
from cleanclip_jax.models.blocks import ACTIVATIONS
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch import HUGGINGFACE, OPEN_CLIP
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.views.normalise import MEAN, STD

CONFIG, PREPROCESSOR, OPEN_CLIP_CONFIG = (
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
)
# What is read of them and has keys of its own.
_SECTIONS = {
    CONFIG: ("text_config", "vision_config"),
    OPEN_CLIP_CONFIG: ("model_cfg", "preprocess_cfg"),
}


def find_files(path: Path, format: str | None) -> tuple[list[Path], dict[str, Any]]:
    """The files of a checkpoint's weights, and the JSON files beside them by name."""
    if path.is_file():
        # A .pt in somebody's downloads has nothing to do with a config.json that lies there.
        if path.name.startswith(("model.", "pytorch_model.")):
            return [path], _json_files(path.parent, [CONFIG, PREPROCESSOR])
        names = [OPEN_CLIP_CONFIG] if path.name.startswith("open_clip_") else []
        return [path], _json_files(path.parent, names)
    if not path.is_dir():
        raise UserError(f"there is no {path}")
    choices = {None: (*HUGGINGFACE, *OPEN_CLIP), "huggingface": HUGGINGFACE}
    choices["open_clip"] = choices["open_clip_text"] = (*OPEN_CLIP, *HUGGINGFACE)
    name = next((n for n in choices.get(format, ()) if (path / n).is_file()), None)
    if name is None:
        raise UserError(
            f"{path} holds no weights of a {format or 'Hugging Face or open_clip'} model: none of "
            f"{', '.join(choices.get(format) or choices[None])}"
        )
    beside = [OPEN_CLIP_CONFIG] if name in OPEN_CLIP else [CONFIG, PREPROCESSOR]
    files = _json_files(path, beside)
    if not name.endswith(".index.json"):
        return [path / name], files
    table = _json(path / name).get("weight_map")
    shards = sorted({str(x) for x in table.values()}) if isinstance(table, dict) else []
    absent = [x for x in shards if Path(x).name != x or not (path / x).is_file()]
    if absent or not shards:
        raise UserError(f"{path / name} names files that are not there: {', '.join(absent)}")
    return [path / shard for shard in shards], files


def _json_files(folder: Path, names: list[str]) -> dict[str, Any]:
    files = {name: _json(folder / name) for name in names if (folder / name).is_file()}
    for name, content in files.items():
        for section in _SECTIONS.get(name, ()):
            if not isinstance(content.get(section) or {}, dict):
                raise UserError(f"{folder / name}: {section} is no JSON object")
    return files


def _json(path: Path) -> dict[str, Any]:
    return read_json(path)


def activation_of(
    path: Path, layout: str, files: Mapping[str, Any], note: Mapping[str, Any]
) -> tuple[str, str]:
    """The activation and what says so: the file's config, its note, or nothing."""
    if layout == "huggingface" and CONFIG in files:
        towers = [files[CONFIG].get(f"{tower}_config") or {} for tower in ("text", "vision")]
        kinds = {str(tower.get("hidden_act", "quick_gelu")) for tower in towers}
        if len(kinds) != 1 or not kinds <= ACTIVATIONS.keys():
            raise UserError(
                f"{path}: config.json's hidden_act is {', '.join(sorted(kinds))}; both towers take "
                f"one of {', '.join(ACTIVATIONS)}"
            )
        return kinds.pop(), "as its config.json says"
    if OPEN_CLIP_CONFIG in files:
        quick = (files[OPEN_CLIP_CONFIG].get("model_cfg") or {}).get("quick_gelu", False)
        return "quick_gelu" if quick is True else "gelu", f"as its {OPEN_CLIP_CONFIG} says"
    if str(note.get("activation")) in ACTIVATIONS:
        return note["activation"], "as a note in the file says"
    return (
        "quick_gelu",
        "since nothing says which (OpenAI's and CleanCLIP's; for open_clip's models without "
        "'-quickgelu' ask for gelu)",
    )


def check_config(path: Path, config: Mapping[str, Any], v: Variant) -> None:
    """Refuses a Hugging Face config whose tensors would mean something else than ours."""
    for tower, width in (("text", v.text_width), ("vision", v.vision_width)):
        section = config.get(f"{tower}_config") or {}
        heads = section.get("num_attention_heads", 8 if tower == "text" else 12)
        epsilon = section.get("layer_norm_eps", 1e-5)
        if heads != width // 64 or epsilon != 1e-5:
            raise UserError(
                f"{path}: config.json's {tower}_config has {heads} heads for width {width} and "
                f"layer_norm_eps {epsilon}; here heads are 64 wide and the epsilon is 1e-5"
            )


def warnings_of(path: Path, files: Mapping[str, Any], v: Variant) -> list[str]:
    """What of the files beside a checkpoint is not as pictures and text are treated here."""
    notes = []
    preprocess = {
        **files.get(PREPROCESSOR, {}),
        **(files.get(OPEN_CLIP_CONFIG, {}).get("preprocess_cfg") or {}),
    }
    for keys, ours in ((("image_mean", "mean"), MEAN), (("image_std", "std"), STD)):
        theirs = next((preprocess[key] for key in keys if key in preprocess), None)
        try:
            same = theirs is None or bool(np.allclose(theirs, ours, atol=1e-4))
        except (TypeError, ValueError):
            raise UserError(f"{path}: its {keys[1]} is {theirs!r}, not three numbers") from None
        if not same:
            notes.append(f"warning: it was trained with {keys[1]} {theirs}; here it is {ours}")
    end = (files.get(CONFIG, {}).get("text_config") or {}).get("eos_token_id", v.vocab_size - 1)
    if end not in (2, v.vocab_size - 1):  # 2 is written in old configs and means the highest id
        notes.append(
            f"warning: its config.json ends texts at id {end}; here at the highest, "
            f"{v.vocab_size - 1}"
        )
    return notes


def folder_files(
    format: str, origin: Origin | None, settings: Mapping[str, Any], v: Variant
) -> dict[str, dict[str, Any]]:
    """The JSON files of a folder: the source's, with what is different since, or new ones."""
    given = copy.deepcopy(origin.files) if origin else {}
    if format != "huggingface":
        content = given.get(OPEN_CLIP_CONFIG) or _open_clip_config(settings, v)
        content["model_cfg"]["quick_gelu"] = settings["activation"] == "quick_gelu"
        content["model_cfg"]["vision_cfg"]["image_size"] = v.image_size
        if format == "open_clip_text":
            content["model_cfg"]["custom_text"] = True
        return {OPEN_CLIP_CONFIG: content}
    config = given.get(CONFIG) or huggingface_config(v)
    for tower in ("text_config", "vision_config"):
        config[tower] = {**(config.get(tower) or {}), "hidden_act": settings["activation"]}
    config["vision_config"]["image_size"] = v.image_size
    processor = given.get(PREPROCESSOR) or _processor(settings)
    size, side = processor.get("size"), v.image_size
    processor["size"] = {"shortest_edge": side} if isinstance(size, dict) else side
    crop = processor.get("crop_size")
    processor["crop_size"] = {"height": side, "width": side} if isinstance(crop, dict) else side
    return {CONFIG: config, PREPROCESSOR: processor}


def _open_clip_config(settings: Mapping[str, Any], v: Variant) -> dict[str, Any]:
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
            "mean": settings["image"]["mean"],
            "std": settings["image"]["std"],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def huggingface_config(v: Variant) -> dict[str, Any]:
    """What Hugging Face's CLIPConfig takes, without the activation and the pictures' size."""

    def tower(kind: str, width: int, layers: Any, heads: int, **more: int) -> dict[str, Any]:
        return {
            "model_type": f"clip_{kind}_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "projection_dim": v.features,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "layer_norm_eps": 1e-5,
            **more,
        }

    text = {
        "max_position_embeddings": v.context_length,
        "vocab_size": v.vocab_size,
        "bos_token_id": v.vocab_size - 2,
        "eos_token_id": v.vocab_size - 1,
        "pad_token_id": 0,
    }
    vision = {"patch_size": v.patch, "num_channels": 3}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": v.features,
        "text_config": tower("text", v.text_width, v.text_layers, v.text_heads, **text),
        "vision_config": tower("vision", v.vision_width, v.vision_layers, v.vision_heads, **vision),
    }


def _processor(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": settings["image"]["size"]},
        "resample": 3,  # Pillow's bicubic
        "do_center_crop": True,
        "crop_size": {"height": settings["image"]["size"], "width": settings["image"]["size"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": settings["image"]["mean"],
        "image_std": settings["image"]["std"],
    }
