"""The JSON files beside a checkpoint's weights: which they are, what they say, how new ones are."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import check_plain, read_json
from cleanclip_jax.keys import REQUIRED, table, take
from cleanclip_jax.models.variants import Stack, Variant
from cleanclip_jax.start.torch import HUGGINGFACE, OPEN_CLIP
from cleanclip_jax.start.torch.architecture import (
    HIDDEN_ACTS,
    Described,
    merged,
    of_huggingface,
    of_open_clip,
)
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.views.normalise import MEAN, STD

CONFIG, PREPROCESSOR, OPEN_CLIP_CONFIG = (
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
)
_OPEN_CLIP_KEYS = {"model_cfg": table(REQUIRED), "preprocess_cfg": table({})}


def find_files(path: Path, format: str | None) -> tuple[list[Path], dict[str, Any]]:
    """The files of a checkpoint's weights, and the JSON files beside them by name."""
    if path.is_file():
        # A .pt in somebody's downloads has nothing to do with a config.json that lies there.
        if path.name.startswith(("model.", "pytorch_model.")):
            return [path], _json_files(path.parent, [CONFIG, PREPROCESSOR])
        names = [OPEN_CLIP_CONFIG] if path.name.startswith("open_clip_") else []
        return [path], _json_files(path.parent, names)
    if not path.is_dir():
        if path.exists():
            check_plain(path)
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
    index = read_json(path / name).get("weight_map")
    shards = sorted({str(x) for x in index.values()}) if isinstance(index, dict) else []
    absent = [x for x in shards if Path(x).name != x or not (path / x).is_file()]
    if absent or not shards:
        raise UserError(f"{path / name} names files that are not there: {', '.join(absent)}")
    return [path / shard for shard in shards], files


def _json_files(folder: Path, names: list[str]) -> dict[str, Any]:
    files = {name: read_json(folder / name) for name in names if (folder / name).exists()}
    if OPEN_CLIP_CONFIG in files:
        content = files[OPEN_CLIP_CONFIG]
        known = {name: content[name] for name in _OPEN_CLIP_KEYS if name in content}
        take(str(folder / OPEN_CLIP_CONFIG), known, _OPEN_CLIP_KEYS)
    return files


def described(path: Path, layout: str, files: Mapping[str, Any]) -> Described | None:
    """What the config beside a checkpoint says of its model; None where there is none."""
    if layout == "huggingface":
        return of_huggingface(f"{path}: {CONFIG}", files[CONFIG]) if CONFIG in files else None
    where = f"{path}: {OPEN_CLIP_CONFIG}"
    return of_open_clip(where, files[OPEN_CLIP_CONFIG]) if OPEN_CLIP_CONFIG in files else None


def preprocessing(path: Path, files: Mapping[str, Any], size: int) -> list[str]:
    """What the configs beside a checkpoint say of pictures that is not as they are treated here."""
    given = files.get(PREPROCESSOR) or {}
    given |= (files.get(OPEN_CLIP_CONFIG) or {}).get("preprocess_cfg") or {}
    ours = {
        "mean": tuple(round(float(x), 8) for x in MEAN),
        "std": tuple(round(float(x), 8) for x in STD),
        "interpolation": "bicubic",
        "resample": 3,
        "resize_mode": "shortest",
        **{name: True for name in ("do_center_crop", "do_normalize", "do_rescale")},
        "size": size,
        "crop_size": size,
    }
    notes = []
    for name, value in given.items():
        name = name.removeprefix("image_")
        if name not in ours or value is None:
            continue
        wanted = ours[name]
        if isinstance(wanted, tuple):
            threes = isinstance(value, list) and len(value) == 3
            if not threes or not all(isinstance(x, int | float) for x in value):
                raise UserError(f"{path}: its {name} is {value!r}, not three numbers")
            same = all(abs(x - y) <= 1e-4 for x, y in zip(value, wanted, strict=True))
        elif isinstance(wanted, int) and not isinstance(wanted, bool):
            sides = list(value.values()) if isinstance(value, dict) else value
            same = all(x == wanted for x in (sides if isinstance(sides, list) else [sides]))
        else:
            same = value == wanted
        if not same:
            notes.append(f"warning: it was trained with {name} {value}; here it is {wanted}")
    return notes


def folder_files(
    format: str, origin: Origin | None, settings: Mapping[str, Any], v: Variant
) -> dict[str, dict[str, Any]]:
    """The JSON files of a folder: the source's, with what is different since, or new ones."""
    given = copy.deepcopy(origin.files) if origin else {}
    activation = settings["activation"]
    if format != "huggingface":
        content = given.get(OPEN_CLIP_CONFIG) or _open_clip_config(settings, v)
        model = content["model_cfg"]
        model["quick_gelu"] = activation == "quick_gelu"
        model["vision_cfg"]["image_size"] = v.image_size
        for tower in ("vision_cfg", "text_cfg"):
            model[tower].pop("act_kwargs", None)
            if activation == "gelu_tanh":
                model[tower]["act_kwargs"] = {"approximate": "tanh"}
        if format == "open_clip_text":
            model["custom_text"] = True
        return {OPEN_CLIP_CONFIG: content}
    config = given.get(CONFIG) or huggingface_config(v)
    for tower in ("text_config", "vision_config"):
        config[tower] = merged(config, tower)
        config.pop(f"{tower}_dict", None)
        if HIDDEN_ACTS.get(config[tower].get("hidden_act", "")) != activation:
            words = (word for word, name in HIDDEN_ACTS.items() if name == activation)
            config[tower]["hidden_act"] = next(words)
    config["vision_config"]["image_size"] = v.image_size
    processor = given.get(PREPROCESSOR) or _processor(settings)
    size, side = processor.get("size"), v.image_size
    processor["size"] = {"shortest_edge": side} if isinstance(size, dict) else side
    crop = processor.get("crop_size")
    processor["crop_size"] = {"height": side, "width": side} if isinstance(crop, dict) else side
    return {CONFIG: config, PREPROCESSOR: processor}


def _open_clip_config(settings: Mapping[str, Any], v: Variant) -> dict[str, Any]:
    """What open_clip's classes take, without the activation; what is at its default is left out."""

    def tower(width: int, hidden: int, epsilon: float, **more: Any) -> dict[str, Any]:
        ratio = hidden / width
        if int(width * ratio) != hidden:  # they cut it off
            ratio = (hidden + 0.5) / width
        given = {"mlp_ratio": (ratio, 4.0), "norm_kwargs": ({"eps": epsilon}, {"eps": 1e-5})}
        given |= more
        return {"width": width} | {name: x for name, (x, usual) in given.items() if x != usual}

    text = tower(
        *(v.text_width, v.text.hidden, v.text_epsilon),
        no_causal_mask=(not v.causal, False),
        pool_type=("eos" if v.text_end >= 0 else v.text_pool, "end"),
        eos_id=(v.text_end, -1),
    )
    layers, image = v.vision_layers, {}
    if isinstance(layers, tuple):
        layers = list(layers)
    else:
        image = tower(
            *(v.vision_width, v.vision.hidden, v.vision_epsilon),
            no_ln_pre=(not v.ln_pre, False),
            pool_type=("tok" if v.vision_pool == "token" else "avg", "tok"),
            final_ln_after_pool=(v.vision_pool == "mean_norm", False),
        )
    image |= {"width": v.vision_width, "layers": layers, "patch_size": v.patch or None}
    if v.vision_head_width != 64:
        image["head_width"] = v.vision_head_width
    return {
        "model_cfg": {
            "embed_dim": v.features,
            "vision_cfg": {"image_size": v.image_size, **image},
            "text_cfg": {
                "context_length": v.context_length,
                "vocab_size": v.vocab_size,
                "heads": v.text_heads,
                "layers": v.text_layers,
                **text,
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

    def tower(kind: str, stack: Stack, **more: int) -> dict[str, Any]:
        return {
            "model_type": f"clip_{kind}_model",
            "hidden_size": stack.width,
            "intermediate_size": stack.hidden,
            "projection_dim": v.features,
            "num_hidden_layers": stack.layers,
            "num_attention_heads": stack.heads,
            "layer_norm_eps": stack.epsilon,
            **more,
        }

    text = {
        "max_position_embeddings": v.context_length,
        "vocab_size": v.vocab_size,
        "bos_token_id": v.vocab_size - 2,
        "eos_token_id": v.vocab_size - 1 if v.text_end < 0 else v.text_end,
        "pad_token_id": 0,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": v.features,
        "text_config": tower("text", v.text, **text),
        "vision_config": tower("vision", v.vision, patch_size=v.patch, num_channels=3),
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
