"""The linear head of supervised training: its classes beside a run's checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cleanclip_jax.files import write_whole
from cleanclip_jax.measure.ranks import Classifier

FILE = "head.json"


@dataclass(frozen=True)
class Head:
    """What a head tells apart, and how it sees features.

    Attributes:
      classes: names, in the order of its outputs.
      normalised: whether it is given features of unit length.
    """

    classes: tuple[str, ...]
    normalised: bool

    def save(self, workdir: Path) -> None:
        """Writes the workdir's head.json."""
        content = {"classes": self.classes, "normalised": self.normalised}
        write_whole(workdir / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def shapes(self, features: int, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Its parameters' shapes and types."""
        count = len(self.classes)
        return {
            "kernel": jax.ShapeDtypeStruct((features, count), dtype),
            "bias": jax.ShapeDtypeStruct((count,), dtype),
        }

    def classifier(self, params: Mapping[str, Any]) -> Classifier:
        """The head as what evaluation scores classes with."""
        return Classifier(
            names=self.classes,
            weights=np.asarray(params["kernel"]).T,
            bias=np.asarray(params["bias"]),
            normalised=self.normalised,
            what=f"linear head on {'unit-length' if self.normalised else 'un-normalised'} features",
        )


def load_head(workdir: Path) -> Head | None:
    """The head of a run, None where it trained none."""
    path = workdir / FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return Head(tuple(content["classes"]), content["normalised"])
