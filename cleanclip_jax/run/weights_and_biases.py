"""Weights & Biases, where config.train.wandb names a project."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.workdir import Workdir


def import_wandb() -> Any:
    """Weights & Biases; a UserError where it is not installed."""
    try:
        return import_module("wandb")
    except ImportError:
        raise UserError(
            "config.train.wandb is set, but Weights & Biases is not installed: "
            "pip install 'cleanclip-jax[wandb]'"
        ) from None


def check_login() -> None:
    """Refuses what Weights & Biases would: no login, or one that its server doesn't know."""
    wandb = import_wandb()
    with _refusals(wandb):
        wandb.login()  # verified; offline it has nothing to say


def open_board(workdir: Workdir, project: str, config: Mapping[str, Any]) -> Any:
    """A run of the project, which goes on whenever the workdir's run does."""
    wandb = import_wandb()
    path = workdir.path.absolute()
    with _refusals(wandb):
        return wandb.init(
            project=project,
            name=path.name,
            # The same workdir is the same run, however often it was stopped.
            id=hashlib.sha256(str(path).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(workdir.folder("")),
            config=dict(config),
            settings=wandb.Settings(silent=True),
        )


@contextmanager
def _refusals(wandb: Any) -> Iterator[None]:
    try:
        yield
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.train.wandb: Weights & Biases refuses: {reason}") from None
