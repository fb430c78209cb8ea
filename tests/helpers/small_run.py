"""A small run's config, for whatever trains."""

from ml_collections import ConfigDict

from cleanclip_jax.config import load

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
