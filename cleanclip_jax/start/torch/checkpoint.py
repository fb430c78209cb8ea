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
from cleanclip_jax.models.numbers import read_variant, spelled
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.architecture import Described, contradictions
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.start.torch.recognise import (
    find_layout,
    guess_heads,
    in_words,
    name_of,
    read_numbers,
)
from cleanclip_jax.start.torch.sidecars import described, find_files, preprocessing
from cleanclip_jax.start.torch.tensors import to_variables
from cleanclip_jax.start.torch.torch_file import read_note, read_torch_file
from cleanclip_jax.start.torch.unwrap import unwrap


@dataclass(frozen=True)
class Checkpoint:
    """A PyTorch checkpoint whose tensors are all accounted for.

    Attributes:
      path: where it lies.
      tensors: by name without prefix.
      numbers: its architecture's.
      activation: a name of `ACTIVATIONS`, which tensors don't show; `chosen` says by whom.
      origin: what the way back needs.
      notes: what a person should know of it, a line each.
      tokenizer: its tokenizer, in words, where that is another than CLIP's.
    """

    path: Path
    tensors: Mapping[str, np.ndarray]
    numbers: Variant
    activation: str
    chosen: str
    origin: Origin
    notes: tuple[str, ...] = ()
    tokenizer: str | None = None

    def variables(self) -> dict[str, Any]:
        """Our variables, each in its own type. NaN and infinity are refused."""
        return to_variables(str(self.path), self.origin.layout, self.numbers, self.tensors)

    def config(self) -> ConfigDict:
        """The config that describes it, everything else at its default."""
        config, v = defaults(), self.numbers
        with config.unlocked(), config.ignore_type():
            config.model.variant = name_of(v) or ConfigDict(spelled(v))
            config.model.activation = self.activation
            config.model.image_size = v.image_size
            config.text.context_length = v.context_length
            config.text.vocab_size = v.vocab_size
            config.evaluation.templates = "imagenet"
            config.text.tokenizer = "clip" if self.has_clips_vocabulary else "unknown"
        return config

    @property
    def has_clips_vocabulary(self) -> bool:
        """Whether its vocabulary is CLIP's, so far as is known; another is not in the file."""
        v = self.numbers
        ends = v.text_pool == "end" and v.text_end < 0
        return v.vocab_size == Variant.vocab_size and ends and self.tokenizer is None

    def describe(self) -> list[str]:
        """Lines that say what it is and what was chosen."""
        v, kinds = self.numbers, sorted(set(self.origin.tensors.values()))
        return [
            f"{self.path}: {self.origin.format} format, {len(self.tensors)} tensors "
            f"({', '.join(kinds)})",
            f"{in_words(v)} at {v.image_size} pixels, context length {v.context_length}, "
            f"vocabulary {v.vocab_size}",
            f"activation {self.activation}, {self.chosen}",
            *self.notes,
        ]


def open_checkpoint(
    path: Path, format: str | None = None, activation: str | None = None, key: str | None = None
) -> Checkpoint:
    """Opens a checkpoint of OpenAI, open_clip, CleanCLIP or Hugging Face; runs nothing in it.

    A tensor that is missing, left over or misshapen is refused by its name, and so is a key of its
    config that asks for what is not built here.

    Args:
      path: a file (.pt and its like, .safetensors), or a folder of Hugging Face or open_clip.
      format: of `FORMATS`, in place of what it is recognised as.
      activation: a name of `ACTIVATIONS`, in place of what its config says.
      key: where the state dict lies in a file, in place of the usual keys.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    try:
        weights, files = find_files(local_copy(path), format)
        content: dict[str, Any] = {}
        note: dict[str, Any] = {}
        for file in weights:
            part, note = _read(file)
            content |= part
    except OSError as error:
        raise UserError(f"{path} can't be read ({reason(error)})") from None
    inner = unwrap(path, content, key)
    tensors = inner.tensors
    layout = find_layout(str(path), list(tensors))
    ordered = weights[0].suffix != ".safetensors" and list(tensors) != sorted(tensors)
    format = _format(path, format, layout, inner.key == "state_dict", ordered)
    shown = read_numbers(str(path), layout, tensors)
    says = described(path, layout, files) or _noted(path, format, note, shown)
    notes = [*preprocessing(path, files, shown.image_size), *(says.notes if says else ())]
    if says is not None:
        contradictions(f"{path}: its {says.source}", shown, says.numbers)
    numbers = says.numbers if says else guess_heads(str(path), format, shown)
    if activation is not None:
        chosen = "as given"
    elif says is not None:
        activation, chosen = says.activation, f"as its {says.source} says"
    elif format in ("openai", "cleanclip"):
        activation, chosen = "quick_gelu", f"as {format} programs run every model"
    else:
        activation = "quick_gelu" if format == "huggingface" else "gelu"
        chosen = f"the usual one of {format}, since nothing says which"
        notes.append(
            f"warning: nothing says which activation it was trained with: {activation} is taken, "
            f"the usual one of {format}; name another with --activation, config.model.activation "
            "or load(activation=...)"
        )
    if says is not None and says.tokenizer:
        notes.append(f"warning: its tokenizer is not CLIP's: {says.tokenizer}")
    if inner.left:
        notes.append(f"not carried over: {', '.join(inner.left)}")
    origin = Origin(
        format=format,
        layout=layout,
        prefix=inner.prefix,
        tensors={name: str(x.dtype) for name, x in tensors.items()},
        counters={n: int(x) for n, x in tensors.items() if n.endswith(".num_batches_tracked")},
        wrapper=None if inner.key is None else dict(inner.plain),
        files=files,
        key=inner.key or "state_dict",
    )
    tokenizer = says.tokenizer if says else None
    return Checkpoint(path, tensors, numbers, activation, chosen, origin, tuple(notes), tokenizer)


def _noted(path: Path, format: str, note: Mapping[str, Any], shown: Variant) -> Described | None:
    """What an export says of itself; those of earlier versions say no numbers."""
    numbers, activation = note.get("numbers"), note.get("activation")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        return None
    if isinstance(numbers, dict):
        return Described(read_variant(f"{path}: its note", numbers), activation, "note")
    return Described(guess_heads(str(path), format, shown), activation, "note")


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


def _format(path: Path, wanted: str | None, layout: str, wrapped: bool, ordered: bool) -> str:
    """What the checkpoint is, or else what is wanted, where its names can be that as well."""
    if layout in ("huggingface", "open_clip_text"):
        possible = [layout]
    elif wrapped:
        possible = ["cleanclip", "open_clip"]
    else:
        possible = ["openai", "open_clip"]
    if wanted is None:
        # Safetensors are sorted by name, which hides whose they are, and so is what somebody has
        # read from some and saved; OpenAI writes none.
        return possible[0] if layout == "openai" and ordered else possible[-1]
    if wanted not in possible:
        raise UserError(f"{path} is no {wanted} checkpoint: its names are those of {possible[0]}")
    return wanted
