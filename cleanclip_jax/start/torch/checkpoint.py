"""PyTorch checkpoints: found in a file or a folder, recognised, and described in words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import local_copy
from cleanclip_jax.models.blocks import ACTIVATIONS
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.pickle_file import read_note, read_torch_file
from cleanclip_jax.start.torch.recognise import find_layout, find_variant_of
from cleanclip_jax.start.torch.safetensors_file import looks_like_safetensors, read_safetensors
from cleanclip_jax.start.torch.tensors import Origin, to_variables
from cleanclip_jax.views.normalise import MEAN, STD

FORMATS = ("openai", "open_clip", "open_clip_text", "cleanclip", "huggingface")
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
# A folder's weights, by who writes them so; the first that is there is read.
_HUGGINGFACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG, PREPROCESSOR, OPEN_CLIP_CONFIG = (
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
)
_PREFIX = "module."


@dataclass(frozen=True)
class Foreign:
    """A PyTorch checkpoint whose tensors are all accounted for.

    Attributes:
      path: where it lies.
      tensors: by name without prefix, mapped from the file.
      variant: a name of `models/variants.py`.
      numbers: the variant's, with the sizes that the tensors show.
      activation: quick_gelu | gelu, which tensors don't show; `chosen` says by whom.
      origin: what the way back needs.
      notes: what a person should know of it, a line each.
    """

    path: Path
    tensors: Mapping[str, np.ndarray]
    variant: str
    numbers: Variant
    activation: str
    chosen: str
    origin: Origin
    notes: tuple[str, ...]

    def variables(self) -> dict[str, Any]:
        """Our variables, each in its own type: views of the file where they can be.

        Raises:
          UserError: a tensor holds NaN or infinity.
        """
        return to_variables(str(self.path), self.origin.layout, self.numbers, self.tensors)

    def describe(self) -> list[str]:
        """Lines that say what it is and what was chosen."""
        v, kinds = self.numbers, sorted(set(self.origin.tensors.values()))
        return [
            f"{self.path}: {self.origin.format} format, {len(self.tensors)} tensors "
            f"({', '.join(kinds)})",
            f"{self.variant} at {v.image_size} pixels, context length {v.context_length}, "
            f"vocabulary {v.vocab_size}",
            f"activation {self.activation}, {self.chosen}",
            *self.notes,
        ]


def is_foreign(path: Path) -> bool:
    """Whether a path is, or is named like, a PyTorch checkpoint and no workdir of ours."""
    if path.is_dir():
        return any((path / name).is_file() for name in (*_HUGGINGFACE, *_OPEN_CLIP))
    return path.is_file() or path.suffix in SUFFIXES


def open_foreign(
    path: Path,
    format: str | None = None,
    activation: str | None = None,
    allow_torchscript: bool = False,
) -> Foreign:
    """Opens a checkpoint of OpenAI, open_clip, CleanCLIP or Hugging Face.

    Args:
      path: a file (.pt and its like, .safetensors), or a folder of Hugging Face or open_clip.
      format: of `FORMATS`, in place of what it is recognised as.
      activation: quick_gelu | gelu, in place of what its config says.
      allow_torchscript: reads OpenAI's archives, which are programs.

    Raises:
      UserError: it can't be read, is no CLIP, or a tensor is missing, left over or misshapen.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
    path = local_copy(path)
    weights, files = _find(path, format)
    content: dict[str, Any] = {}
    note: dict[str, Any] = {}
    for file in weights:
        part, note = _read(file, allow_torchscript)
        content |= part
    wrapper, left = None, []
    if isinstance(content.get("state_dict"), dict):
        plain = {key: x for key, x in content.items() if isinstance(x, int | float | str)}
        wrapper = {key: plain[key] for key in ("epoch", "name") if key in plain}
        left = [key for key in content if key not in (*wrapper, "state_dict")]
        content = content["state_dict"]
    for name, value in content.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    prefix = _PREFIX if content and all(name.startswith(_PREFIX) for name in content) else ""
    tensors = {name.removeprefix(prefix): value for name, value in content.items()}
    layout = find_layout(str(path), list(tensors))
    format = _format(path, format, layout, wrapped=wrapper is not None, files=weights)
    variant, numbers = find_variant_of(str(path), layout, tensors)
    if layout == "huggingface" and CONFIG in files:
        _check_config(path, files[CONFIG], numbers)
    activation, chosen = _activation(path, activation, layout, files, note)
    origin = Origin(
        format=format,
        layout=layout,
        prefix=prefix,
        tensors={name: str(x.dtype) for name, x in tensors.items()},
        counters={n: int(x) for n, x in tensors.items() if n.endswith(".num_batches_tracked")},
        wrapper=wrapper,
        files=files,
    )
    notes = _notes(files, numbers)
    if left:
        notes.append(f"not carried over: {', '.join(left)}")
    return Foreign(path, tensors, variant, numbers, activation, chosen, origin, tuple(notes))


def _find(path: Path, format: str | None) -> tuple[list[Path], dict[str, Any]]:
    """The files of a checkpoint's weights, and the JSON files beside them by name."""
    if path.is_file():
        # A .pt in somebody's downloads has nothing to do with a config.json that lies there.
        beside = {
            CONFIG: path.name.startswith(("model.", "pytorch_model.")),
            PREPROCESSOR: path.name.startswith(("model.", "pytorch_model.")),
            OPEN_CLIP_CONFIG: path.name.startswith("open_clip_"),
        }
        names = [name for name, use in beside.items() if use]
        return [path], _json_files(path.parent, names)
    if not path.is_dir():
        raise UserError(f"there is no {path}")
    choices = {
        None: (*_HUGGINGFACE, *_OPEN_CLIP),
        "huggingface": _HUGGINGFACE,
        "open_clip": (*_OPEN_CLIP, *_HUGGINGFACE),
    }
    choices["open_clip_text"] = choices["open_clip"]
    name = next((n for n in choices.get(format, ()) if (path / n).is_file()), None)
    if name is None:
        raise UserError(
            f"{path} holds no weights of a {format or 'Hugging Face or open_clip'} model: none of "
            f"{', '.join(choices.get(format) or choices[None])}"
        )
    own = [OPEN_CLIP_CONFIG] if name in _OPEN_CLIP else [CONFIG, PREPROCESSOR]
    files = _json_files(path, own)
    if not name.endswith(".index.json"):
        return [path / name], files
    shards = sorted(set(_json(path / name).get("weight_map", {}).values()))
    absent = [shard for shard in shards if not (path / shard).is_file()]
    if absent or not shards:
        raise UserError(f"{path / name} names files that are not there: {', '.join(absent)}")
    return [path / shard for shard in shards], files


def _json_files(folder: Path, names: list[str]) -> dict[str, Any]:
    return {name: _json(folder / name) for name in names if (folder / name).is_file()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object")
    return content


def _read(file: Path, allow_torchscript: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        if looks_like_safetensors(file):
            tensors, metadata = read_safetensors(file)
            return dict(tensors), read_note(metadata.get("cleanclip"))
        return read_torch_file(file, allow_torchscript)
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror})") from None


def _format(path: Path, asked: str | None, layout: str, *, wrapped: bool, files: list[Path]) -> str:
    """What the checkpoint is, unless asked for something its names can be as well."""
    if layout in ("huggingface", "open_clip_text"):
        possible = [layout]
    elif wrapped:
        possible = ["cleanclip", "open_clip"]
    else:
        possible = ["openai", "open_clip"]
    if asked is None:
        # Safetensors are sorted by name, which hides whose they are; OpenAI writes none.
        other = layout == "open_clip" or files[0].suffix == ".safetensors"
        return possible[-1] if other else possible[0]
    if asked not in possible:
        raise UserError(f"{path} is no {asked} checkpoint: its names are those of {possible[0]}")
    return asked


def _activation(
    path: Path, asked: str | None, layout: str, files: Mapping[str, Any], note: Mapping[str, Any]
) -> tuple[str, str]:
    """The activation and who chose it: the person, the file's config, or nobody."""
    if asked is not None:
        return asked, "as asked"
    if layout == "huggingface" and CONFIG in files:
        towers = [files[CONFIG].get(f"{tower}_config") or {} for tower in ("text", "vision")]
        kinds = {tower.get("hidden_act", "quick_gelu") for tower in towers}
        if len(kinds) != 1 or not kinds <= ACTIVATIONS.keys():
            raise UserError(
                f"{path}: config.json's hidden_act is {', '.join(sorted(kinds))}; both towers take "
                f"one of {', '.join(ACTIVATIONS)}"
            )
        return kinds.pop(), "as its config.json says"
    if OPEN_CLIP_CONFIG in files:
        quick = files[OPEN_CLIP_CONFIG].get("model_cfg", {}).get("quick_gelu", False)
        return "quick_gelu" if quick else "gelu", f"as its {OPEN_CLIP_CONFIG} says"
    if note.get("activation") in ACTIVATIONS:
        return note["activation"], "as a note in the file says"
    return (
        "quick_gelu",
        "since nothing says which (OpenAI's and CleanCLIP's; for open_clip's models without "
        "'-quickgelu' ask for gelu)",
    )


def _check_config(path: Path, config: Mapping[str, Any], v: Variant) -> None:
    """Refuses a Hugging Face config whose tensors would mean something else than ours."""
    for tower, width in (("text", v.text_width), ("vision", v.vision_width)):
        said = config.get(f"{tower}_config") or {}
        heads = said.get("num_attention_heads", 8 if tower == "text" else 12)
        epsilon = said.get("layer_norm_eps", 1e-5)
        if heads * 64 != width or epsilon != 1e-5:
            raise UserError(
                f"{path}: config.json's {tower}_config has {heads} heads for width {width} and "
                f"layer_norm_eps {epsilon}; here heads are 64 wide and the epsilon is 1e-5"
            )


def _notes(files: Mapping[str, Any], v: Variant) -> list[str]:
    """What of the files beside a checkpoint is not as pictures and text are treated here."""
    notes = []
    preprocess = {
        **files.get(PREPROCESSOR, {}),
        **files.get(OPEN_CLIP_CONFIG, {}).get("preprocess_cfg", {}),
    }
    for keys, ours in ((("image_mean", "mean"), MEAN), (("image_std", "std"), STD)):
        said = next((preprocess[key] for key in keys if key in preprocess), None)
        if said is not None and not np.allclose(said, ours, atol=1e-4):
            notes.append(f"warning: it was trained with {keys[1]} {said}; here it is {ours}")
    end = (files.get(CONFIG, {}).get("text_config") or {}).get("eos_token_id", v.vocab_size - 1)
    if end not in (2, v.vocab_size - 1):  # 2 is written in old configs and means the highest id
        notes.append(
            f"warning: its config.json ends texts at id {end}; here at the highest, "
            f"{v.vocab_size - 1}"
        )
    return notes
