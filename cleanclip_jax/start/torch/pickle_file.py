"""Files that torch.save wrote: read without executing anything in them, and written."""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cleanclip_jax.errors import UserError

# A record that torch.load passes over, beside TorchScript's own extra files.
NOTE = "extra/cleanclip.json"


def import_torch() -> Any:
    """Returns the module torch.

    Raises:
      UserError: it isn't installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "reading and writing .pt files needs PyTorch: pip install 'cleanclip-jax[torch]', or "
            "use safetensors files, which need nothing"
        ) from None
    return torch


def read_torch_file(
    path: Path, allow_torchscript: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a file of torch.save, mapped into memory: only what is used is read from the disk.

    Returns:
      what the file holds, tensors as arrays, and the note that `write_torch_file` left ({} if
      none).

    Raises:
      UserError: it is damaged, or holds anything but tensors, numbers, strings and containers;
        or it is a TorchScript archive and those are not allowed.
    """
    torch = import_torch()
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    note: dict[str, Any] = {}
    if zipped:
        try:
            with zipfile.ZipFile(path) as records:
                names = {name.partition("/")[2]: name for name in records.namelist()}
                if NOTE in names:
                    note = read_note(records.read(names[NOTE]))
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is cut short or damaged ({error})") from None
        if "constants.pkl" in names:
            return _torchscript(path, allow_torchscript), note
    try:
        # Files of before PyTorch 1.6 are no archives and can't be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise UserError(f"{path} is no checkpoint of PyTorch, or damaged") from None
        raise UserError(
            f"{path} wants to run code when it is read ({found[1].rstrip('.,')}): refused, nothing "
            "was run; save its tensors alone (torch.save(model.state_dict(), ...))"
        ) from None
    except Exception as error:  # torch's reader meets garbage with whatever it trips over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no checkpoint of PyTorch, or damaged ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return _arrays(torch, path, content), note


def read_note(text: str | bytes | None) -> dict[str, Any]:
    """What an export said of itself; {} where it said nothing, or nothing that can be read."""
    try:
        note = json.loads(text or "{}")
    except ValueError:
        note = None
    return note if isinstance(note, dict) else {}


def _torchscript(path: Path, allowed: bool) -> dict[str, Any]:
    if not allowed:
        raise UserError(
            f"{path} is a TorchScript archive: a program with its weights, and loading it can run "
            "that program's code; if you trust where it is from, cleanclip convert it with "
            "--allow_torchscript"
        )
    torch = import_torch()
    try:
        with warnings.catch_warnings():
            # Deprecated for new programs; OpenAI's are of 2021.
            warnings.simplefilter("ignore", DeprecationWarning)
            tensors = torch.jit.load(path, map_location="cpu").state_dict()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is no TorchScript archive that loads ({reason})") from None
    return _arrays(torch, path, dict(tensors))


def _arrays(torch: Any, path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every tensor in it, or in its state_dict, as an array on the same memory."""
    out = {}
    for name, value in content.items():
        if name == "state_dict" and isinstance(value, dict):
            value = _arrays(torch, path, value)
        elif isinstance(value, torch.Tensor):
            value = _array(torch, f"{path}: {name}", value)
        out[str(name)] = value
    return out


def _array(torch: Any, where: str, tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(f"{where} is a sparse or quantised tensor: CLIP has none")
    try:
        if tensor.dtype == torch.bfloat16:  # numpy's comes from ml_dtypes
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except TypeError:
        raise UserError(f"{where} is of type {tensor.dtype}, which CLIP has no use for") from None


def as_tensor(values: np.ndarray) -> Any:
    """An array as a contiguous tensor, on the same memory where that is contiguous already."""
    torch = import_torch()
    values = np.asarray(values, order="C")
    if not values.flags.writeable:
        values = values.copy()
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def write_torch_file(path: Path, content: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """Writes `content` with torch.save, and `note` as a JSON record that torch.load passes over.

    Arrays in `content` and its state_dict become tensors.
    """
    torch = import_torch()
    tensors = {
        name: {inner: as_tensor(x) for inner, x in value.items()}
        if name == "state_dict"
        else as_tensor(value)
        if isinstance(value, np.ndarray)
        else value
        for name, value in content.items()
    }
    torch.save(tensors, path)
    with zipfile.ZipFile(path, "a") as records:
        top = records.namelist()[0].partition("/")[0]
        records.writestr(f"{top}/{NOTE}", json.dumps(note, indent=1))
