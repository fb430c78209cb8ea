"""A small run's config, for whatever trains, and the run itself, which is trained once for all."""

import fcntl
import os
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from cleanclip_jax.config import load
from cleanclip_jax.run import loop
from cleanclip_jax.run.build import build

# A finetuning or a sweep of two steps, as a person would ask for it.
SMALL = {
    "train.batch_size": "16",
    "train.steps": "2",
    "train.log_every": "1",
    "optimizer.warmup_steps": "1",
    "mesh.data": "1",
}
FLAGS = [f"--config.{key}={value}" for key, value in SMALL.items()]


def small_config(stage: str = "poisoned") -> ConfigDict:
    """A stage of the demo, on one device, cut to four steps of sixteen pairs at 16 pixels."""
    config = load(f"configs/demo.py:{stage}")
    if stage == "poisoned":
        config.model.variant = "ViT-test-one"
        config.model.image_size = 16
        config.attack.trigger.size = 4
    config.train.batch_size = 16
    config.train.steps = 4
    config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.optimizer.warmup_steps = 1
    config.mesh.data = 1
    return config


def train(config: ConfigDict, workdir: Path, profile: int = 0) -> ConfigDict:
    """Trains a run as `cleanclip train` does; returns its config with everything filled in."""
    with build(config, workdir, profile) as run:
        loop.train(run)
    return run.config


def trained(workdir: Path) -> Path:
    """Copies the run of `small_config()` to `workdir`, and returns that.

    The first of pytest's processes that needs it trains it, for all of them.
    """
    folder = Path(os.environ["CLEANCLIP_TEST_RUNS"])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            train(small_config(), folder / "run")
            (folder / "done").touch()
    shutil.copytree(folder / "run", workdir)
    return workdir
