"""Two checkpoints of one architecture, whose weights can be mixed."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.sharding import copied_over
from cleanclip_jax.start.head import Head
from cleanclip_jax.start.model import make_model
from cleanclip_jax.start.start import RunStart, Start
from cleanclip_jax.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class MixedStart(RunStart):
    """Variables that lie in memory, as a start of the workdir that they are for."""

    def __init__(
        self, path: Path, config: ConfigDict, tokenizer: Tokenizer, variables: Mapping[str, Any]
    ):
        self.path, self.config, self.variables = path, config, variables
        self.__dict__.update(tokenizer=tokenizer, step=0)  # known, where a run's are looked for

    def restore(
        self, model: CLIP, mesh: Mesh, step: int | None = None
    ) -> tuple[int, dict[str, Any], Head | None]:
        return 0, jax.device_put(dict(self.variables), copied_over(mesh)), None


def common_tokenizer(a: Start, b: Start) -> Tokenizer:
    """The tokenizer of two models; a UserError where they, or their architectures, differ.

    Where one comes without its tokenizer, a PyTorch checkpoint with a vocabulary that is not
    CLIP's, the other's is that of both.
    """
    one, other = (make_model(start.config, start.vocab_size) for start in (a, b))
    names = [field.name for field in dataclasses.fields(one.variant)]
    facts = [(name, getattr(one.variant, name), getattr(other.variant, name)) for name in names]
    facts.append(("activation", one.compute.activation, other.compute.activation))
    for name, x, y in facts:
        if x != y:
            raise UserError(
                f"{b.path} is of another architecture than {a.path}: its {name} is {y}, not {x}; "
                "weights are mixed of models of one"
            )
    known = [start for start in (a, b) if start.config.text.tokenizer != "unknown"] or [a]
    words = [json.loads(start.tokenizer.as_json())["model"] for start in known]
    if words[0] != words[-1]:
        raise UserError(
            f"{b.path} has another tokenizer than {a.path}: weights are mixed of models that read "
            "the same ids"
        )
    return known[0].tokenizer


def variables_of(start: Start, mesh: Mesh) -> dict[str, Any]:
    """The towers' variables of a start, in NumPy."""
    model = make_model(start.config, start.vocab_size)
    _, variables, head = start.restore(model, mesh)
    if head is not None:
        log.warning("%s: its head of %d classes is left out", start.path, len(head.classes))
    return jax.device_get(variables)


def common_dtype(a: Start, b: Start) -> str:
    """The wider type of two models' parameters."""
    types = (start.config.model.param_dtype for start in (a, b))
    return str(jnp.promote_types(*types))
