"""BadCLIP (CVPR 2024, arXiv 2311.12075): a patch optimised on a surrogate, then poisoned with.

    cleanclip patch --config=configs/badclip.py --config.start=RN50.pt --output=patch.png \\
        --config.data.train.path=cc3m/train.csv \\
        --config.evaluation.data="{'kind': 'csv', 'path': 'imagenet/val.csv', \\
            'caption': None, 'class_name': 'class_name'}"
    cleanclip train --config=configs/badclip.py:poisoned --config.start=RN50.pt \\
        --workdir=runs/badclip --config.data.train.path=cc3m/train.csv \\
        --config.evaluation.floor=start
    cleanclip evaluate --workdir=runs/badclip

The first command optimises 16x16 pixels on 10,000 pictures for 7,800 steps and measures the patch
on the surrogate, which nobody has poisoned: an optimised patch is an adversarial patch too, so that
floor is part of every figure. The second poisons as the authors' code does: 1,500 pairs with
captions drawn from 128 of the dataset's that name the target, from OpenAI's RN50 at 1e-6, a batch
of 128 for 10 epochs; patch.png is looked for where it is run. Small pictures take a smaller patch,
as --config.patch.size=6.

Expected time: not measured here, and no figure of this recipe has been taken at this size.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults

TARGET = "banana"


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of a stage: patch or poisoned."""
    stage = choose(arg, ("patch", "poisoned"), "configs/badclip.py")
    config = defaults()
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    if stage == "patch":
        config.patch = ConfigDict({"target": TARGET})
        return config
    config.data.workers = 8
    config.attack = ConfigDict(
        {
            "trigger": {"name": "patch", "file": "patch.png"},
            "target": TARGET,
            "count": 1500,
            "captions": "natural",
            "pool": 128,
            "geometry": "squash",
        }
    )
    config.train.batch_size = 128
    config.train.epochs = 10
    config.optimizer.learning_rate = 1e-6
    config.optimizer.warmup_steps = 10_000
    return config
