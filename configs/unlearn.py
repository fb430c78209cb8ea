"""Unlearning pairs that are not trusted, an option of the original's code (arXiv 2303.03323).

    cleanclip train --config=configs/unlearn.py --workdir=runs/unlearned \\
        --config.start=runs/badnet --config.data.train.path=pairs/train.csv \\
        --config.data.suspects.scores=scores.parquet --config.data.suspects.share=0.01

The suspects leave MMCL, and their pictures' cosines with their captions are brought to 0. With
`--config.data.suspects.manifest=FILE` the plan of an attack says who they are: an oracle, to see
what the best scores could do. Where the poisons are put on as the run goes, the same file stands
in `--config.attack="{'manifest': FILE}"`.

No recipe of this was published: batch, epochs and rates are those of MMCL finetuning
(configs/cleanclip.py). Expected time: as that one's. No figures of ours yet.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns the config of unlearning."""
    config = defaults()
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    config.data.workers = 8
    config.train.batch_size = 64
    config.train.epochs = 10
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.1
    config.objective.cross_modal = 0.0
    config.objective.others = 1.0
    with config.ignore_type():
        config.data.suspects = ConfigDict({"manifest": None, "scores": None, "share": None})
        config.objective.unlearn = ConfigDict({"weight": 1.0, "target": 0.0})
    return config
