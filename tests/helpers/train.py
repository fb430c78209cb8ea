"""Trains a run from its config, as `cleanclip train` does."""

from pathlib import Path

from ml_collections import ConfigDict

from cleanclip_jax.run import loop
from cleanclip_jax.run.build import build


def train(config: ConfigDict, workdir: Path, profile: int = 0) -> ConfigDict:
    """Returns the config with everything filled in."""
    with build(config, workdir, profile) as run:
        loop.train(run)
    return run.config
