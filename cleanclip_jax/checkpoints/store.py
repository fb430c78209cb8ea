"""Checkpoints of a run, with Orbax: a folder a step, written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from cleanclip_jax.errors import UserError

MODEL, PROGRESS = "model", "progress"


class Store:
    """The checkpoints in `folder`, of which the newest `keep` stay.

    A checkpoint has two parts, so that a model can be had without its optimizer: `model`
    ({'params', 'batch_stats'}) and `progress` ({'step', 'opt_state'}).
    """

    def __init__(self, folder: Path, keep: int = 2):
        policies = ocp.training.preservation_policies, ocp.training.save_decision_policies
        # Orbax would save whenever it is idle and keep everything unless told otherwise.
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.absolute()),
            preservation_policy=policies[0].LatestN(keep),
            save_decision_policy=policies[1].FixedIntervalPolicy(1),
        )

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that lie there, ascending."""
        return sorted(found.step for found in self._checkpointer.checkpoints)

    def save(self, step: int, model: dict[str, Any], progress: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it lies there."""
        if self.latest != step:
            self._checkpointer.save_checkpointables(step, {MODEL: model, PROGRESS: progress})

    def saved(self, part: str) -> Any:
        """The newest checkpoint's part as a tree of arrays without memory, in shape and type."""
        assert self.latest is not None
        tree = self._checkpointer.checkpointables_metadata(self.latest).metadata[part]
        return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), tree)

    def load(self, step: int | None = None, **abstract: Any) -> dict[str, Any]:
        """Returns a checkpoint's parts, placed as the given abstract trees say.

        Args:
          step: of the checkpoint; None: the newest.
          **abstract: `model` and, or, `progress`: trees of `jax.ShapeDtypeStruct`, or of NumPy
            arrays for what is to stay on the host.
        """
        return self._checkpointer.load_checkpointables(
            self.latest if step is None else step, abstract
        )


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The shapes and types of a tree, to be placed by `sharding`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def load_model(
    workdir: Path, abstract_model: dict[str, Any], step: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a run's newest checkpoint, or of the one at `step`.

    Raises:
      UserError: the run has no checkpoint yet, or none at `step`.
    """
    with open_store(workdir) as (latest, store):
        if step is not None and step not in store.steps:
            kept = ", ".join(map(str, store.steps))
            raise UserError(f"{workdir} keeps no checkpoint of step {step}; it has {kept}")
        step = latest if step is None else step
        return step, store.load(step, **{MODEL: abstract_model})[MODEL]


@contextmanager
def open_store(workdir: Path) -> Iterator[tuple[int, Store]]:
    """Gives (step, store) of a run's newest checkpoint.

    Raises:
      UserError: the run has no checkpoint yet.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train it first (cleanclip train)")
    with Store(folder) as store:
        if store.latest is None:
            raise UserError(f"{folder} holds no finished checkpoint yet")
        yield store.latest, store
