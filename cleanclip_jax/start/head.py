"""The linear head of supervised training: its classes beside a run's checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from cleanclip_jax.workdir import HEAD, Workdir


@dataclass(frozen=True)
class Head:
    """What a head tells apart, and how it sees features.

    Attributes:
      classes: names, in the order of its outputs.
      normalised: whether it is given features of unit length.
      params: `kernel` [features, classes] and `bias` [classes], where they are loaded.
    """

    classes: tuple[str, ...]
    normalised: bool
    params: Mapping[str, Any] | None = None

    def save(self, workdir: Workdir) -> None:
        """Writes the workdir's head.json."""
        workdir.write_json(HEAD, {"classes": self.classes, "normalised": self.normalised})

    def shapes(self, features: int, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Its parameters' shapes and types."""
        count = len(self.classes)
        return {
            "kernel": jax.ShapeDtypeStruct((features, count), dtype),
            "bias": jax.ShapeDtypeStruct((count,), dtype),
        }


def load_head(workdir: Workdir) -> Head | None:
    """The head of a run without its parameters; None where it trained none."""
    if not workdir.has(HEAD):
        return None
    content = workdir.read_json(HEAD)
    return Head(tuple(content["classes"]), content["normalised"])
