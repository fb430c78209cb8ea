"""A state dict found in what a file holds: below a key, behind prefixes, among other things."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError, unknown

# Where training programs put a model's tensors; another place is named with --key.
_KEYS = ("state_dict", "model_state_dict", "model")
# What wrappers of modules put before every name, one or several of them.
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Unwrapped:
    """A state dict by bare names, and what lay around it.

    Attributes:
      key: it lay below it; None: it was all of the file.
      prefix: before every name.
      plain: numbers and strings beside it.
      left: the names of all else that lay there.
    """

    tensors: Mapping[str, np.ndarray]
    key: str | None
    prefix: str
    plain: Mapping[str, Any]
    left: tuple[str, ...]


def unwrap(path: Path, content: Mapping[str, Any], key: str | None = None) -> Unwrapped:
    """Finds the state dict in a file's content.

    Args:
      key: where it lies, in place of the usual keys.
    """
    tables = {name: x for name, x in content.items() if isinstance(x, dict) and _has_tensors(x)}
    if key is not None and key not in tables:
        raise unknown(f"{path}: key", key, tables)
    if key is None:
        key = next((name for name in _KEYS if isinstance(content.get(name), dict)), None)
    if key is None and tables and not _has_tensors(content):
        raise UserError(
            f"{path} holds tensors below {', '.join(tables)}: name one, in cleanclip convert with "
            f"--key={next(iter(tables))}, else with --config.start_key={next(iter(tables))}"
        )
    inner = content if key is None else content[key]
    for name, value in inner.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    prefix = ""
    while inner:
        more = (p for p in _PREFIXES if all(name.startswith(prefix + p) for name in inner))
        if (another := next(more, None)) is None:
            break
        prefix += another
    tensors = {name.removeprefix(prefix): value for name, value in inner.items()}
    if key is None:
        return Unwrapped(tensors, None, prefix, {}, ())
    plain = {
        name: content[name]
        for name in ("epoch", "name")
        if isinstance(content.get(name), int | float | str)
    }
    left = [name for name in content if name not in (*plain, key)]
    words = (f"{name} (take it with --key={name})" if name in tables else name for name in left)
    return Unwrapped(tensors, key, prefix, plain, tuple(words))


def _has_tensors(content: Mapping[str, Any]) -> bool:
    return any(isinstance(x, np.ndarray) for x in content.values())
