"""What Hugging Face's and open_clip's configs say of a model: keys are honoured or refused by name.

Each key is declared once, with the default that those programs have for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import REQUIRED, Key, choice, flag, number, table, text, whole
from cleanclip_jax.keys import take as checked
from cleanclip_jax.models.numbers import validate
from cleanclip_jax.models.variants import Variant

# Hugging Face's words for activations.
HIDDEN_ACTS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
HIDDEN_ACTS |= {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


@dataclass(frozen=True)
class Described:
    """What `source` says: the numbers, the activation, and what a person should know of it."""

    numbers: Variant
    activation: str
    source: str
    tokenizer: str | None = None  # where it is another than CLIP's
    notes: tuple[str, ...] = ()


def _only(value: Any, what: str = "what else it can be is not here") -> Key:
    """A key that is understood at one value alone."""
    return Key(value, f"{value} alone: {what}", lambda x: type(x) is type(value) and x == value)


def _any(value: Any = None) -> Key:
    """A key of training alone, or of what is not here: whatever it is, features are equal."""
    return Key(value, "anything", lambda _: True)


def _square(default: int) -> Key:
    """A side, or two that are equal."""

    def accepts(value: Any) -> bool:
        sides = value if isinstance(value, list) else [value]
        return len(sides) in (1, 2) and all(type(x) is int and 0 < x == sides[0] for x in sides)

    return Key(
        default, "a whole number", accepts, convert=lambda v: v[0] if isinstance(v, list) else v
    )


def _depths(value: Any) -> bool:
    four = isinstance(value, list) and len(value) == 4
    return all(type(x) is int and x > 0 for x in (value if four else [value]))


def _tower(kind: str, width: int, heads: int) -> dict[str, Key]:
    """Keys of a tower of Hugging Face's."""
    return {
        "hidden_size": whole(width, least=1),
        "intermediate_size": whole(4 * width, least=1),
        "num_hidden_layers": whole(12, least=1),
        "num_attention_heads": whole(heads, least=1),
        "hidden_act": choice("quick_gelu", " | ".join(HIDDEN_ACTS)),
        "layer_norm_eps": number(1e-5, "", 0, 1, "<>"),
        "attention_dropout": number(0.0, "", 0, 1),
        "model_type": choice(f"clip_{kind}_model", f"clip_{kind}_model"),
    }


# What CLIPConfig and its towers read; other keys are as inert there as here.
_HUGGINGFACE = {
    "model_type": choice("clip", "clip"),
    "text_config": table({}),
    "vision_config": table({}),
    "text_config_dict": table(None),
    "vision_config_dict": table(None),
    "projection_dim": whole(512, least=1),
    "quantization_config": _only(None),
}
_TEXT = _tower("text", 512, 8) | {
    "vocab_size": whole(49408, least=1),
    "max_position_embeddings": whole(77, least=1),
    "eos_token_id": whole(49407),
}
_VISION = _tower("vision", 768, 12) | {
    "image_size": _square(224),
    "patch_size": _square(32),
    "num_channels": _only(3),
}


def of_huggingface(where: str, config: Mapping[str, Any]) -> Described:
    """What a Hugging Face folder's config.json says; `where` begins a message."""
    top = _known(where, config, _HUGGINGFACE)
    text = _known(f"{where}: text_config", merged(config, "text_config"), _TEXT)
    vision = _known(f"{where}: vision_config", merged(config, "vision_config"), _VISION)
    acts = [HIDDEN_ACTS[tower["hidden_act"]] for tower in (vision, text)]
    _equal(f"{where}: hidden_act", acts)
    width, heads = vision["hidden_size"], vision["num_attention_heads"]
    if width % heads:
        raise UserError(f"{where}: vision_config: {heads} heads do not divide the width {width}")
    end = text["eos_token_id"]
    if end != 2:  # written in old configs: the highest id
        _is_id(f"{where}: eos_token_id", end, text["vocab_size"])
    v = Variant(
        features=top["projection_dim"],
        image_size=vision["image_size"],
        vision_layers=vision["num_hidden_layers"],
        vision_width=width,
        patch=vision["patch_size"],
        text_layers=text["num_hidden_layers"],
        text_width=text["hidden_size"],
        text_heads=text["num_attention_heads"],
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        vision_head_width=width // heads,
        vision_hidden=_hidden(width, vision["intermediate_size"]),
        text_hidden=_hidden(text["hidden_size"], text["intermediate_size"]),
        vision_epsilon=vision["layer_norm_eps"],
        text_epsilon=text["layer_norm_eps"],
        text_end=-1 if end in (2, text["vocab_size"] - 1) else end,
    )
    notes = _dropped("attention_dropout", text) or _dropped("attention_dropout", vision)
    return Described(v, acts[0], "config.json", None, notes)


def merged(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """A tower's config as transformers reads it: TOWER_dict, where it is there, prevails whole."""
    above = config.get(f"{tower}_dict")
    defaults = {name: key.default for name, key in (_TEXT if "text" in tower else _VISION).items()}
    return {**(config.get(tower) or {}), **({} if above is None else {**defaults, **above})}


_BLOCK = {
    "mlp_ratio": number(4.0, "", 0, 100, "<"),
    "act_kwargs": table(None),
    "norm_kwargs": table(None),
    "ls_init_value": _only(None),
    "output_tokens": _only(False),
    "block_type": choice("default", "default"),
    **{name: _only(False) for name in ("qk_norm", "scaled_cosine_attn", "scale_heads")},
    **{name: _only(False) for name in ("scale_attn_inner", "scale_attn", "scale_fc")},
}
_TIMM = ("model_pretrained", "pool", "proj", "proj_bias", "drop", "drop_path")
_MODEL_CFG = {
    "embed_dim": replace(whole(None, least=1), default=REQUIRED),
    "vision_cfg": table(REQUIRED),
    "text_cfg": table(REQUIRED),
    "quick_gelu": flag(False),
    "custom_text": flag(False),
    "init_logit_bias": _only(None, "SigLIP is not here"),
    "nonscalar_logit_scale": _only(False),
    "multimodal_cfg": _only(None, "CoCa is not here"),
    **{name: _any() for name in ("output_dict", "cast_dtype", "init_logit_scale")},
}
_VISION_CFG = {
    **_BLOCK,
    "layers": Key(12, "a depth, or four of a ResNet", _depths),
    "width": whole(768, least=1),
    "head_width": whole(64, least=1),
    "patch_size": _square(16),
    "image_size": _square(224),
    "patch_dropout": number(0.0, "", 0, 1, ">"),
    "attentional_pool": _only(False),
    **{f"attn_pooler_{name}": _any() for name in ("queries", "heads")},
    "no_ln_pre": flag(False),
    "pos_embed_type": _only("learnable"),
    "final_ln_after_pool": flag(False),
    "pool_type": choice("tok", "tok | avg"),
    "timm_model_name": _only(None, "timm's towers are not here"),
    **{f"timm_{name}": _any() for name in _TIMM},
}
_TEXT_CFG = {
    **_BLOCK,
    "context_length": whole(77, least=1),
    "vocab_size": whole(49408, least=1),
    **{"hf_tokenizer_name": text(None), "tokenizer_mode": text(None)},
    "tokenizer_kwargs": table(None),
    "width": whole(512, least=1),
    "heads": whole(8, least=1),
    "layers": whole(12, least=1),
    "embed_cls": _only(False),
    "pad_id": _any(),  # of a mask for embed_cls
    "eos_id": whole(2),
    "no_causal_mask": flag(False),
    "final_ln_after_pool": _any(),  # one token is normed, before or after it is chosen
    "pool_type": choice("argmax", "argmax | eos | first | last"),
    **{"proj_bias": _only(False), "proj_type": _only("linear")},
    "hf_model_name": _only(None, "Hugging Face's towers are not here"),
    **{f"hf_{name}": _any() for name in ("model_pretrained", "proj_type", "pooler_type")},
}


def of_open_clip(where: str, config: Mapping[str, Any]) -> Described:
    """What an open_clip_config.json says; `where` begins a message."""
    top = checked(f"{where}: model_cfg", config["model_cfg"], _MODEL_CFG)
    vision = checked(f"{where}: vision_cfg", top["vision_cfg"], _VISION_CFG)
    text = checked(f"{where}: text_cfg", top["text_cfg"], _TEXT_CFG)
    resnet = isinstance(vision["layers"], list)
    towers = {"text_cfg": text} if resnet else {"vision_cfg": vision, "text_cfg": text}
    acts = [_act(f"{where}: {n}", top["quick_gelu"], x["act_kwargs"]) for n, x in towers.items()]
    _equal(f"{where}: act_kwargs", acts)
    by_id, end = text["pool_type"] == "eos", text["eos_id"]
    if by_id:
        _is_id(f"{where}: eos_id", end, text["vocab_size"])
    image: dict[str, Any] = {}
    if not resnet:  # whose pooling and norms don't look at these keys
        mean = "mean_norm" if vision["final_ln_after_pool"] else "mean"
        image = {
            "vision_hidden": _ratio(vision),
            "vision_epsilon": _epsilon(f"{where}: vision_cfg", vision["norm_kwargs"]),
            "vision_pool": mean if vision["pool_type"] == "avg" else "token",
            "ln_pre": not vision["no_ln_pre"],
        }
    v = Variant(
        features=top["embed_dim"],
        image_size=vision["image_size"],
        vision_layers=tuple(vision["layers"]) if resnet else vision["layers"],
        vision_width=vision["width"],
        patch=0 if resnet else vision["patch_size"],
        text_layers=text["layers"],
        text_width=text["width"],
        text_heads=text["heads"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        vision_head_width=vision["head_width"],
        text_hidden=_ratio(text),
        text_epsilon=_epsilon(f"{where}: text_cfg", text["norm_kwargs"]),
        causal=not text["no_causal_mask"],
        text_pool="end" if text["pool_type"] in ("argmax", "eos") else text["pool_type"],
        text_end=end if by_id and end != text["vocab_size"] - 1 else -1,
        **image,
    )
    words = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
    tokenizer = ", ".join(f"{word} {text[word]}" for word in words if text[word]) or None
    notes = _dropped("patch_dropout", vision)
    return Described(v, acts[0], "open_clip_config.json", tokenizer, notes)


def contradictions(where: str, shown: Variant, described: Variant) -> None:
    """Refuses a config that says other numbers than the tensors show."""
    seen = ("features", "image_size", "vision_layers", "vision_width", "patch", "text_layers")
    seen += ("text_width", "context_length", "vocab_size", "vision_hidden", "text_hidden", "ln_pre")
    for name in seen:
        pair = getattr(described, name), getattr(shown, name)
        if pair[0] != pair[1]:
            raise UserError(
                f"{where} says {name.replace('_', ' ')} {pair[0]}, and the tensors have {pair[1]}"
            )
    validate(where, described)


def _known(where: str, given: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    known = {name: x for name, x in given.items() if name in keys}
    for name, value in known.items():
        if value is None and keys[name].default is not None:  # there null is no default
            raise UserError(f"{where}: {name} is null: leave it out, or say what it is")
    return checked(where, known, keys)


def _dropped(key: str, tower: Mapping[str, Any]) -> tuple[str, ...]:
    share = tower[key]
    return (f"warning: {key} {share} is not applied in training here",) if share else ()


def _is_id(where: str, id: int, vocabulary: int) -> None:
    if id >= vocabulary:
        raise UserError(f"{where} {id} is no id of a vocabulary of {vocabulary}")


def _equal(where: str, acts: list[str]) -> None:
    if len(set(acts)) > 1:
        raise UserError(f"{where}: the image tower's is {acts[0]}, the text tower's {acts[1]}")


def _act(where: str, quick: bool, options: Mapping[str, Any] | None) -> str:
    kind = (options or {}).get("approximate", "none")
    if set(options or {}) - {"approximate"} or kind not in ("none", "tanh") or (quick and options):
        raise UserError(
            f"{where}.act_kwargs is {options}: it takes approximate, and without quick_gelu"
        )
    return "quick_gelu" if quick else "gelu_tanh" if kind == "tanh" else "gelu"


def _epsilon(where: str, options: Mapping[str, Any] | None) -> float:
    keys = {"eps": number(1e-5, "", 0, 1, "<>")}
    return checked(f"{where}.norm_kwargs", options or {}, keys)["eps"]


def _hidden(width: int, hidden: int) -> int:
    return 0 if hidden == 4 * width else hidden


def _ratio(tower: Mapping[str, Any]) -> int:
    return _hidden(tower["width"], int(tower["width"] * tower["mlp_ratio"]))
