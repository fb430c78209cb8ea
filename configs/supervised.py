"""The supervised defence: the image tower finetuned on labelled pictures (arXiv 2303.03323).

    cleanclip train --config=configs/supervised.py --workdir=runs/supervised \\
        --config.start=runs/badnet --config.data.train.path=imagenet50k/labels.csv \\
        --config.data.train.class_name=class_name
    cleanclip evaluate --workdir=runs/supervised

A linear head on the un-normalised image features and the whole image tower are trained on 50,000
labelled ImageNet pictures: a global batch of 80, 10 epochs, 1e-4 after 500 steps of warmup.
`:probe` is the linear probe: the head alone, 5e-3 and no warmup. The text tower stays as it is.
The figures that `evaluate` then gives go through the head, whose classes must be those of the
labelled set.

Expected time: not measured here. Figures on smaller data: docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults
from cleanclip_jax.recipes import supervise


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of the supervised defence: finetune or probe."""
    stage = choose(arg, ("finetune", "probe"), "configs/supervised.py")
    config = defaults()
    config.data.train = ConfigDict(
        {"kind": "csv", "path": None, "caption": None, "class_name": "class_name"}
    )
    config.data.workers = 8
    config.train.batch_size = 80
    config.train.epochs = 10
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 500
    supervise(config, probe=stage == "probe")
    return config
