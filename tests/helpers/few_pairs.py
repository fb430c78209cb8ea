"""Small runs whose epochs are short: on the first digits alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_run import small_config, train
from ml_collections import ConfigDict

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.run.recorder import Recorder


class Killed(Exception):
    """Stands for a kill: nothing of the program runs after it."""


def few(folder: Path, steps: int, count: int = 32) -> ConfigDict:
    """So many steps of 16 pairs, of the first digits; a checkpoint at the end alone."""
    config = small_config()
    source = open_source(config.data.train.to_dict())
    write_ids(folder / "few.json", np.arange(count), source.root().fingerprint)
    with config.unlocked(), config.ignore_type():
        config.data.train.keep, config.attack = str(folder / "few.json"), None
        config.evaluation.target = "seven"
        config.train.steps, config.train.checkpoint_every = steps, 100
    return config


def killed(run: Callable[[], Any], patch: pytest.MonkeyPatch, place: Any, name: str, at: Any):
    """Runs until a method is called with arguments of which `at` is true."""
    method = getattr(place, name)

    def until(*args: Any, **options: Any) -> Any:
        if at(*args, **options):
            raise Killed
        return method(*args, **options)

    with patch.context() as context, pytest.raises(Killed):
        context.setattr(place, name, until)
        run()


def killed_at(step: int, config: ConfigDict, workdir: Path, patch: pytest.MonkeyPatch) -> None:
    """Trains until a step is to be recorded."""
    at = lambda self, done: done.step == step  # noqa: E731
    killed(lambda: train(config, workdir), patch, Recorder, "record", at)
