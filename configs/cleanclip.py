"""Finetuning a model that can't be vouched for, by the paper's recipe (arXiv 2303.03323).

    cleanclip train --config=configs/cleanclip.py --workdir=runs/cleaned \\
        --config.start=runs/badnet --config.data.train.path=clean/train.csv

100,000 clean pairs, a global batch of 64 for 10 epochs. `:mmcl` leaves out the in-modality
term and its augmented views. `:shrink` is CleanCLIP on a start whose parameters are shrunk to 0.95
and perturbed by 1e-4 of fresh ones (arXiv 2311.14948), for 20 epochs at a rate of 1e-4; no figure
was taken with it. Architecture, tokenizer and what is measured come from the start.

The learning rate decides whether the backdoor goes and how much accuracy goes with it: sweep it.

    cleanclip sweep --config=configs/cleanclip.py --workdir=runs/sweep \\
        --config.start=runs/badnet --config.data.train.path=clean/train.csv \\
        --over=optimizer.learning_rate=1e-6,3e-6,1e-5,3e-5 --over=seed=0,1,2

Expected time: not measured here. Figures on smaller data: docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of finetuning: cleanclip, mmcl or shrink."""
    stage = choose(arg, ("cleanclip", "mmcl", "shrink"), "configs/cleanclip.py")
    config = defaults()
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    config.data.workers = 8
    config.train.batch_size = 64
    config.train.epochs = 10
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.1
    config.objective.in_modal = 0.0 if stage == "mmcl" else 1.0
    if stage == "shrink":
        config.start_change.shrink, config.start_change.perturb = 0.95, 1e-4
        config.train.epochs = 20
        config.optimizer.learning_rate = 1e-4
    return config
