"""Checkpoints of a run, with Orbax: a folder a step, written whole or not at all."""

from pathlib import Path
from typing import Any

import jax
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

    def save(self, step: int, model: dict[str, Any], progress: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it lies there."""
        if self.latest != step:
            self._checkpointer.save_checkpointables(step, {MODEL: model, PROGRESS: progress})

    def load(self, **abstract: Any) -> dict[str, Any]:
        """Returns the newest checkpoint's parts, placed as the given abstract trees say.

        Args:
          **abstract: `model` and, or, `progress`: trees of `jax.ShapeDtypeStruct`.
        """
        return self._checkpointer.load_checkpointables(self.latest, abstract)


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The shapes and types of a tree, to be placed by `sharding`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def load_model(workdir: Path, abstract_model: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a run's newest checkpoint.

    Raises:
      UserError: the run has no checkpoint yet.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train it first (cleanclip train)")
    with Store(folder) as store:
        if store.latest is None:
            raise UserError(f"{folder} holds no finished checkpoint yet")
        return store.latest, store.load(**{MODEL: abstract_model})[MODEL]
