"""Removing a backdoor through its inverted trigger, by InverTune (arXiv 2506.12411).

    cleanclip invert --config=configs/invertune.py --output=runs/inverted \\
        --config.start=runs/badnet --config.data.train.path=clean/train.csv
    cleanclip train --config=configs/invertune.py --workdir=runs/cleaned \\
        --config.start=runs/badnet --config.data.train.path=clean/train.csv \\
        --config.objective.align.inverted=runs/inverted

`invert` finds the target (or is given it: --target=banana), a trigger for it, and the units that
this drives; `train` makes these units as they are without it, and holds the embeddings to the
frozen start's. Few clean pictures are enough, and captions are not used.

200 steps of 64 pictures, the image tower alone, one cosine over all steps. docs/defences.md says
what it minimises, and docs/fidelity.md what differs from the original. Expected time and figures:
not measured here. The rate is the original's: sweep it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from cleanclip_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns the config of the inversion and of the tuning after it."""
    config = defaults()
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    config.data.workers = 8
    config.train.trainable = "visual"
    config.train.batch_size = 64
    config.train.steps = 200
    config.objective.cross_modal = 0.0
    with config.objective.ignore_type():
        config.objective.align = ConfigDict({"weight": 1.0, "inverted": placeholder(str)})
    config.objective.preserve = 0.5
    config.optimizer.learning_rate = 2e-6
    config.optimizer.warmup_steps = 0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    return config
