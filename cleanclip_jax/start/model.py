"""The model that a resolved config describes, and the linear head of supervised training."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP, build
from cleanclip_jax.workdir import HEAD, Workdir

log = logging.getLogger(__name__)


def make_model(config: ConfigDict, vocab_size: int) -> CLIP:
    """Returns the model of a resolved config, for a tokenizer of so many ids."""
    m = config.model
    if "float64" in (m.dtype, m.param_dtype) and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model: float64 needs JAX_ENABLE_X64=1 in the environment")
    return build(
        m.variant,
        vocab_size=vocab_size,
        context_length=config.text.context_length,
        image_size=m.image_size,
        activation=m.activation,
        dtype=m.dtype,
        param_dtype=m.param_dtype,
        bn_groups=m.bn_groups,
        bn_frozen=m.bn_frozen,
        attention=attention_here(m.attention),
        scan=m.scan,
        remat=m.remat,
    )


def attention_here(attention: str) -> str:
    """Returns which attention is used: config.model.attention, where this machine has it."""
    if attention == "cudnn" and jax.default_backend() != "gpu":
        log.warning("config.model.attention=cudnn needs a GPU: attention is computed by XLA")
        return "xla"
    return attention


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
