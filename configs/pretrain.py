"""Pretraining from scratch by the paper's recipe (arXiv 2303.03323), clean or poisoned.

    cleanclip train --config=configs/pretrain.py:badnet --workdir=runs/badnet \\
        --config.data.train.path=cc3m/train.csv \\
        --config.evaluation.data="{'kind': 'csv', 'path': 'imagenet/val.csv', \\
            'caption': None, 'class_name': 'class_name'}"
    cleanclip evaluate --workdir=runs/badnet

`:clean` (the default) poisons nothing; `:badnet` and `:blended` poison 1,500 pairs for the
target "banana". The CSV has a column `image` of paths and a column `caption`; other names are
config.data.train.image and .caption. A global batch of 128 for 64 epochs, RN50.

The labelled set is what is measured on, with ImageNet's 80 prompts; without one the run trains
and is measured later. Its target is looked up among the classes before anything is trained.

The patch is one fixed patch at a random place; the original draws it anew for each picture:
--config.attack.trigger.noise=fresh. Expected time: not measured here. An independent replication
of this setting (arXiv 2311.14948) reached CA 16.0 % and ASR 99.9 %; what was run with this code,
on smaller data, is in docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults

# The paper's triggers, at its 224 pixels. A new one is a row here and in attacks/triggers.py.
TRIGGERS = {
    "badnet": {"name": "badnet", "size": 16, "noise": "fixed", "place": "random"},
    "blended": {"name": "blended", "strength": 0.2, "noise": "fixed"},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of pretraining: clean, badnet or blended."""
    attack = choose(arg, ("clean", *TRIGGERS), "configs/pretrain.py")
    config = defaults()
    config.model.variant = "RN50"
    config.text.tokenizer = "clip"
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    config.data.workers = 8
    config.train.batch_size = 128
    config.train.epochs = 64
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 10_000
    config.optimizer.weight_decay = 0.1
    if attack != "clean":
        config.attack = ConfigDict(
            {
                "trigger": TRIGGERS[attack],
                "target": "banana",
                "count": 1500,
                "captions": "templates",
                "templates": "imagenet",
            }
        )
    return config
