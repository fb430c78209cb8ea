"""PyTorch checkpoints: opened from a file or a folder, recognised, and described in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open

from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError, reason, unknown
from cleanclip_jax.files import check_plain, local_copy
from cleanclip_jax.models.blocks import ACTIVATIONS
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.start.torch.recognise import find_layout, find_variant_of
from cleanclip_jax.start.torch.sidecars import (
    CONFIG,
    activation_of,
    check_config,
    find_files,
    warnings_of,
)
from cleanclip_jax.start.torch.tensors import to_variables
from cleanclip_jax.start.torch.torch_file import read_note, read_torch_file

FORMATS = ("openai", "open_clip", "open_clip_text", "cleanclip", "huggingface")
_PREFIX = "module."


@dataclass(frozen=True)
class Checkpoint:
    """A PyTorch checkpoint whose tensors are all accounted for.

    Attributes:
      path: where it lies.
      tensors: by name without prefix.
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
        """Our variables, each in its own type. NaN and infinity are refused."""
        return to_variables(str(self.path), self.origin.layout, self.numbers, self.tensors)

    def config(self) -> ConfigDict:
        """The config that describes it, everything else at its default."""
        config, v = defaults(), self.numbers
        with config.unlocked(), config.ignore_type():
            config.model.variant = self.variant
            config.model.activation = self.activation
            config.model.image_size = v.image_size
            config.text.context_length = v.context_length
            config.text.vocab_size = v.vocab_size
            config.evaluation.templates = "imagenet"
            config.text.tokenizer = "clip" if self.has_clips_vocabulary else "unknown"
        return config

    @property
    def has_clips_vocabulary(self) -> bool:
        """Whether its vocabulary is as large as CLIP's; another's tokenizer is not in the file."""
        return self.numbers.vocab_size == Variant.vocab_size

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


def open_checkpoint(
    path: Path, format: str | None = None, activation: str | None = None
) -> Checkpoint:
    """Opens a checkpoint of OpenAI, open_clip, CleanCLIP or Hugging Face; runs nothing in it.

    A tensor that is missing, left over or misshapen is refused by its name.

    Args:
      path: a file (.pt and its like, .safetensors), or a folder of Hugging Face or open_clip.
      format: of `FORMATS`, in place of what it is recognised as.
      activation: quick_gelu | gelu, in place of what its config says.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    weights, files = find_files(local_copy(path), format)
    content: dict[str, Any] = {}
    note: dict[str, Any] = {}
    for file in weights:
        part, note = _read(file)
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
    safe = weights[0].suffix == ".safetensors"
    format = _format(path, format, layout, wrapper is not None, safe)
    variant, numbers = find_variant_of(str(path), layout, tensors)
    if layout == "huggingface" and CONFIG in files:
        check_config(path, files[CONFIG], numbers)
    if activation is not None:
        chosen = "as given"
    else:
        activation, chosen = activation_of(path, layout, files, note)
    origin = Origin(
        format=format,
        layout=layout,
        prefix=prefix,
        tensors={name: str(x.dtype) for name, x in tensors.items()},
        counters={n: int(x) for n, x in tensors.items() if n.endswith(".num_batches_tracked")},
        wrapper=wrapper,
        files=files,
    )
    notes = warnings_of(path, files, numbers)
    if left:
        notes.append(f"not carried over: {', '.join(left)}")
    return Checkpoint(path, tensors, variant, numbers, activation, chosen, origin, tuple(notes))


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of one file in its order, or what else it holds, and an export's note."""
    try:
        size = check_plain(file)
        with file.open("rb") as begin:
            if begin.read(9)[8:] != b"{":
                return read_torch_file(file)
        with safe_open(file, "numpy", backend="pread") as content:
            tensors = {name: content.get_tensor(name) for name in content.offset_keys()}
            if wide := [name for name, x in tensors.items() if max(x.shape, default=0) > size]:
                raise UserError(f"{file}: {wide[0]} is empty and yet wide: refused")
            return tensors, read_note((content.metadata() or {}).get("cleanclip"))
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror or error})") from None
    # NumPy lacks some of its types.
    except (SafetensorError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file} is a damaged safetensors file ({reason(error)})") from None


def _format(path: Path, wanted: str | None, layout: str, wrapped: bool, safe: bool) -> str:
    """What the checkpoint is, or else what is wanted, where its names can be that as well."""
    if layout in ("huggingface", "open_clip_text"):
        possible = [layout]
    elif wrapped:
        possible = ["cleanclip", "open_clip"]
    else:
        possible = ["openai", "open_clip"]
    if wanted is None:
        # Safetensors are sorted by name, which hides whose they are; OpenAI writes none.
        return possible[-1] if layout == "open_clip" or safe else possible[0]
    if wanted not in possible:
        raise UserError(f"{path} is no {wanted} checkpoint: its names are those of {possible[0]}")
    return wanted
