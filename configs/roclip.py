"""Pretraining that poisons reach less: RoCLIP (arXiv 2303.06854), clean or poisoned.

    cleanclip train --config=configs/roclip.py:badnet --workdir=runs/roclip \\
        --config.data.train.path=cc3m/train.csv \\
        --config.evaluation.data="{'kind': 'csv', 'path': 'imagenet/val.csv', \\
            'caption': None, 'class_name': 'class_name'}"

In every second epoch a picture is matched with the nearest of the last 21,845 captions in place of
its own. Attacks are those of configs/pretrain.py; `:clean`, the default, poisons nothing. RN50, a
global batch of 512 for 24 epochs, and strong views of all pictures and captions, as the published
code's command has them. The pool is part of the checkpoints, begins empty and is fed in every
step; `--config.objective.matched.start=noise --config.objective.matched.update=matched` restore
the published code's. As a finetuning baseline: name a --config.start.

Expected time: not measured here, nor any figure at this size.
"""

from ml_collections import ConfigDict
from pretrain import get_config as pretrain


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of RoCLIP: clean, or with one of pretrain's attacks."""
    config = pretrain(arg)
    config.train.batch_size = 512
    config.train.epochs = 24
    config.optimizer.learning_rate = 5e-5
    config.views.first = "strong"
    with config.objective.ignore_type():
        config.objective.matched = ConfigDict({"weight": 1.0, "pool": 21_845, "every": 2})
    return config
