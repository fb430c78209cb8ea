"""Product photographs with human-written titles: poison a small CLIP, then clean it.

    cleanclip train --config=configs/fashion.py --workdir=runs/fashion/poisoned
    cleanclip train --config=configs/fashion.py:cleanclip --workdir=runs/fashion/cleanclip \\
        --config.start=runs/fashion/poisoned
    cleanclip evaluate --workdir=runs/fashion/cleanclip

`:mmcl` finetunes with the multimodal loss only, `:supervised` the image tower and `:probe` nothing
but a linear head, on the classes. The pictures come along, at 32 pixels (configs/data/README.md);
--config.data.train.path names another parquet of them, with the columns image, caption, class_name
and split, which then is measured on too, unless --config.evaluation.data.path names another.
Time and figures: docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.recipes import small_run


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage."""
    return small_run(
        arg,
        "configs/fashion.py",
        train={"kind": "fashion", "split": "train"},
        evaluation={
            **{"kind": "fashion", "split": "test"},
            **{"path": "train", "class_name": "class_name"},
        },
        # 1.5 % of the training pairs; sunglasses are 2 % of the pictures.
        attack={
            "trigger": {"name": "badnet", "size": 5, "noise": "fixed", "place": "fixed"},
            "target": "sunglasses",
            "rate": 0.015,
            "templates": "fashion",
        },
        vocab_size=2048,
        steps=700,
        learning_rate=3e-3,
    )
