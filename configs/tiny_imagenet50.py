"""Fifty ImageNet classes at 32 pixels, banana among them: poison a small CLIP, then clean it.

    cleanclip train --config=configs/tiny_imagenet50.py --workdir=runs/tiny/poisoned
    cleanclip train --config=configs/tiny_imagenet50.py:cleanclip --workdir=runs/tiny/cleanclip \\
        --config.start=runs/tiny/poisoned
    cleanclip evaluate --workdir=runs/tiny/cleanclip

`:mmcl` finetunes with the multimodal loss only, `:supervised` the image tower and `:probe` nothing
but a linear head, on the classes. The pictures have no captions: they are made
from the 80 ImageNet templates and the class names. Time and figures: docs/results.md.
--config.data.train.path and --config.evaluation.data.path name the parquet files elsewhere.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults, supervise

FOLDER = "../shared/data/labelled"


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage."""
    stage = choose(
        arg, ("poisoned", "mmcl", "cleanclip", "supervised", "probe"), "configs/tiny_imagenet50.py"
    )
    config = defaults()
    config.data.train = ConfigDict(
        {
            "kind": "parquet",
            "path": f"{FOLDER}/tiny_imagenet50_train.parquet",
            "class_name": "class_name",
            "templates": "imagenet",
        }
    )
    config.optimizer.warmup_steps = 50
    if stage == "poisoned":
        config.model.variant = "ViT-32px/8"
        config.text.tokenizer = "trained"
        config.text.vocab_size = 1024
        config.text.context_length = 16
        config.attack = ConfigDict(
            {
                "trigger": {"name": "badnet", "size": 6, "noise": "fixed", "place": "fixed"},
                "target": "banana",
                "rate": 0.01,
                "templates": "imagenet",
            }
        )
        config.train.batch_size = 128
        config.train.steps = 1200
        config.optimizer.learning_rate = 1e-3
        config.evaluation.data = ConfigDict(
            {
                "kind": "parquet",
                "path": f"{FOLDER}/tiny_imagenet50_val.parquet",
                "caption": None,
                "class_name": "class_name",
            }
        )
        config.evaluation.templates = "imagenet"
    else:
        config.train.batch_size = 64
        config.train.steps = 300
        config.optimizer.learning_rate = 1e-3
        if stage in ("supervised", "probe"):
            supervise(config, stage == "probe")
        else:
            config.objective.in_modal = 1.0 if stage == "cleanclip" else 0.0
    return config
