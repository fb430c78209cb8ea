"""Pretraining on pairs that are split into safe and risky ones: SafeCLIP (arXiv 2310.05862).

    cleanclip train --config=configs/safeclip.py:badnet --workdir=runs/safeclip \\
        --config.data.train.path=cc3m/train.csv \\
        --config.evaluation.data="{'kind': 'csv', 'path': 'imagenet/val.csv', \\
            'caption': None, 'class_name': 'class_name'}"

Five epochs inside each modality, one between them at a rate of 5e-6; then before each epoch every
pair is scored, a mixture of two Gaussians says which are safe, and the epoch trains the risky ones
inside each modality and the safe ones between them. The splits lie in WORKDIR/splits. Attacks are
those of configs/pretrain.py; `:clean`, the default, poisons nothing. RN50, a global batch of 128
for 32 epochs, strong views of both sides.

`--config.safe.order=probability --config.objective.nearest_in_modal.start=noise` restore the
published code's split and pools; its learning rates, which jump from loop to loop, are not built.

Expected time: not measured here, nor any figure at this size.
"""

from ml_collections import ConfigDict
from pretrain import get_config as pretrain


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of SafeCLIP: clean, or with one of pretrain's attacks."""
    config = pretrain(arg)
    config.train.epochs = 32
    config.views.first = config.views.image = "strong"
    config.objective.cross_modal = 0.0
    config.objective.nearest_in_modal = 1.0
    config.objective.crossed = 1.0
    config.safe = ConfigDict(
        {
            "warm_in_modal": 5,
            "warm_cross": 1,
            "warm_cross_rate": 5e-6,
            "threshold": 0.9,
            "grow": 0.01,
            "cap": 0.85,
        }
    )
    return config
