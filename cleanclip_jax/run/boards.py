"""Where metrics go beside metrics.jsonl: TensorBoard and, where asked for, Weights & Biases."""

import hashlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import local_folder


class Boards:
    """Takes scalars by step; a run that resumes writes on from its step.

    Raises:
      UserError: Weights & Biases is asked for and isn't installed, or lets nobody in.
    """

    def __init__(
        self, workdir: Path, first_step: int, project: str | None, config: Mapping[str, Any]
    ):
        self._run = None if project is None else _wandb_run(workdir, project, config)
        self._board = SummaryWriter(
            str(local_folder(workdir / "tensorboard")), purge_step=first_step + 1
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Writes out what is left."""
        self._board.close()
        if self._run is not None:
            self._run.finish()


def _wandb_run(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    try:
        wandb: Any = import_module("wandb")
    except ImportError:
        raise UserError(
            "config.train.wandb is set, but Weights & Biases is not installed: "
            "pip install 'cleanclip-jax[wandb]'"
        ) from None
    path = workdir.absolute()
    try:
        return wandb.init(
            project=project,
            name=path.name,
            # The same workdir is the same run, however often it was stopped.
            id=hashlib.sha256(str(path).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(local_folder(path)),
            config=dict(config),
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.train.wandb: Weights & Biases refuses: {reason}") from None
