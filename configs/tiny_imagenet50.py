"""Fifty ImageNet classes at 32 pixels, banana among them: poison a small CLIP, then clean it.

    cleanclip train --config=configs/tiny_imagenet50.py --workdir=runs/tiny/poisoned \\
        --config.data.train.path=tiny_imagenet50_train.parquet \\
        --config.evaluation.data.path=tiny_imagenet50_val.parquet
    cleanclip train --config=configs/tiny_imagenet50.py:cleanclip --workdir=runs/tiny/cleanclip \\
        --config.data.train.path=tiny_imagenet50_train.parquet --config.start=runs/tiny/poisoned
    cleanclip evaluate --workdir=runs/tiny/cleanclip

`:mmcl` finetunes with the multimodal loss only, `:supervised` the image tower and `:probe` nothing
but a linear head, on the classes. The pictures have no captions: they are made
from the 80 ImageNet templates and the class names. Time and figures: docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.recipes import small_run


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage."""
    return small_run(
        arg,
        "configs/tiny_imagenet50.py",
        train={"class_name": "class_name", "templates": "imagenet"},
        evaluation={"caption": None, "class_name": "class_name"},
        attack={
            "trigger": {"name": "badnet", "size": 6, "noise": "fixed", "place": "fixed"},
            "target": "banana",
            "rate": 0.01,
            "templates": "imagenet",
        },
        vocab_size=1024,
        steps=1200,
        learning_rate=1e-3,
    )
