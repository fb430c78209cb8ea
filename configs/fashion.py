"""Product photographs with human-written titles: poison a small CLIP, then clean it.

    cleanclip train --config=configs/fashion.py --workdir=runs/fashion/poisoned
    cleanclip train --config=configs/fashion.py:cleanclip --workdir=runs/fashion/cleanclip \\
        --config.start=runs/fashion/poisoned
    cleanclip evaluate --workdir=runs/fashion/cleanclip

`:mmcl` finetunes with the multimodal loss only, `:supervised` the image tower and `:probe` nothing
but a linear head, on the classes. Time and figures: docs/results.md.
The pictures are read from `fashion_products_96px.parquet`; --config.data.train.path and
--config.evaluation.data.path name it elsewhere.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults, supervise

PATH = "../shared/data/captioned/fashion_products_96px.parquet"


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage."""
    stage = choose(
        arg, ("poisoned", "mmcl", "cleanclip", "supervised", "probe"), "configs/fashion.py"
    )
    config = defaults()
    config.data.train = ConfigDict({"kind": "parquet", "path": PATH, "where": {"split": "train"}})
    config.optimizer.warmup_steps = 50
    if stage == "poisoned":
        config.model.variant = "ViT-32px/8"
        config.text.tokenizer = "trained"
        config.text.vocab_size = 2048
        config.text.context_length = 16
        # 1.5 % of the training pairs; sunglasses are 2 % of the pictures.
        config.attack = ConfigDict(
            {
                "trigger": {"name": "badnet", "size": 5, "noise": "fixed", "place": "fixed"},
                "target": "sunglasses",
                "rate": 0.015,
                "templates": "fashion",
            }
        )
        config.train.batch_size = 128
        config.train.steps = 700
        config.optimizer.learning_rate = 1e-3
        config.evaluation.data = ConfigDict(
            {
                "kind": "parquet",
                "path": PATH,
                "class_name": "class_name",
                "where": {"split": ["val", "test"]},
            }
        )
        config.evaluation.templates = "fashion"
    else:
        config.train.batch_size = 64
        config.train.steps = 300
        config.optimizer.learning_rate = 3e-3
        if stage in ("supervised", "probe"):
            config.data.train.class_name = "class_name"
            supervise(config, stage == "probe")
        else:
            config.objective.in_modal = 1.0 if stage == "cleanclip" else 0.0
    return config
