"""A small run's config, for whatever trains."""

import pytest
from ml_collections import ConfigDict

from cleanclip_jax.config import load


@pytest.fixture
def config() -> ConfigDict:
    """The demo's poisoned stage, on one device, cut to four steps of sixteen pairs."""
    config = load("configs/demo.py")
    config.model.variant = "ViT-test"
    config.model.image_size = 16
    config.attack.trigger.size = 4
    config.train.batch_size = 16
    config.train.steps = 4
    config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.optimizer.warmup_steps = 1
    config.mesh.data = 1
    return config
