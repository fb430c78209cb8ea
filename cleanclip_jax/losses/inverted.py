"""The folder of `cleanclip invert`: a trigger that was inverted, and the units that it drives.

target.json says of what and how, trigger.npz holds `mask` and `pattern` [s, s, 3] for normalised
pictures, neurons.npz the critical units of each layer.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from cleanclip_jax.arrays import read_arrays, write_arrays
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json
from cleanclip_jax.workdir import workdir_path

TARGET, TRIGGER, NEURONS = "target.json", "trigger.npz", "neurons.npz"
_SHAPE = {
    "target": {"index": int, "name": str},
    "start": {"path": str, "step?": int, "digest": str | None},
}


@dataclass(frozen=True)
class Inverted:
    """What `cleanclip invert` has found.

    Attributes:
      facts: what target.json holds.
      critical: by layer.
      path: where it lies.
    """

    facts: Mapping[str, Any]
    mask: Float32[np.ndarray, "s s 3"]
    pattern: Float32[np.ndarray, "s s 3"]
    critical: Mapping[str, Bool[np.ndarray, "..."]]
    path: Path | None = None

    def save(self, folder: Path) -> None:
        """Writes its files into a folder that is there."""
        (folder / TARGET).write_text(json.dumps(self.facts, indent=2, ensure_ascii=False) + "\n")
        write_arrays(folder / TRIGGER, {"mask": self.mask, "pattern": self.pattern})
        write_arrays(folder / NEURONS, self.critical)

    @classmethod
    def load(cls, path: str | Path) -> "Inverted":
        """Reads what `save` wrote; a UserError says what is wrong with it."""
        folder = workdir_path(path)
        if not (folder / TARGET).is_file():
            raise UserError(f"{folder} is no folder of cleanclip invert: it has no {TARGET}")
        facts = read_json(folder / TARGET, _SHAPE)
        trigger, critical = read_arrays(folder / TRIGGER), read_arrays(folder / NEURONS)
        nothing = np.zeros(0, np.float32)
        mask, pattern = (trigger.get(name, nothing) for name in ("mask", "pattern"))
        fits = mask.ndim == 3 and mask.shape == pattern.shape
        fits = fits and all(x.dtype == np.float32 and np.isfinite(x).all() for x in (mask, pattern))
        if not fits or not critical:
            raise UserError(f"{folder} is not as cleanclip invert wrote it: run that again")
        if any(units.dtype != bool for units in critical.values()):
            raise UserError(f"{folder / NEURONS} holds no units of cleanclip invert's")
        return cls(facts, mask, pattern, critical, folder)

    @cached_property
    def digest(self) -> str:
        """A sha256 over its files' content."""
        whole = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for name, x in {"mask": self.mask, "pattern": self.pattern, **self.critical}.items():
            whole.update(f"{name} {x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).data)
        return whole.hexdigest()
