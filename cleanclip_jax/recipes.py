"""What several of configs/*.py have in common."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from cleanclip_jax.config import choose, defaults

STAGES = ("poisoned", "mmcl", "cleanclip", "supervised", "probe")


def small_run(
    arg: str | None,
    file: str,
    *,
    train: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    attack: Mapping[str, Any],
    vocab_size: int,
    steps: int,
    learning_rate: float,
) -> ConfigDict:
    """One stage of a small CLIP on a labelled table: poisoned, or cleaned in one of four ways.

    Where the pairs are is the user's to set: `--config.data.train.path`.

    Args:
      arg: one of `STAGES`; None: poisoned.
      file: the config's name, for messages.
      train, evaluation: keys of the sources of pairs and of labelled pictures. An evaluation with
        "path": "train" takes the training pairs' path, unless it is given one.
      attack: what the first stage is poisoned with; its templates are the evaluation's too.
      vocab_size: of the vocabulary that the first stage trains.
      steps: of the first stage; the others have 300.
      learning_rate: peak of the stages that clean.
    """
    stage = choose(arg, STAGES, file)
    config = defaults()
    config.data.train = ConfigDict({"kind": "parquet", "path": placeholder(object), **train})
    config.optimizer.warmup_steps = 50
    if stage == "poisoned":
        config.model.variant = "ViT-32px/8"
        config.text.tokenizer = "trained"
        config.text.vocab_size = vocab_size
        config.text.context_length = 16
        config.attack = ConfigDict(dict(attack))
        config.train.batch_size = 128
        config.train.steps = steps
        config.optimizer.learning_rate = 1e-3
        config.evaluation.data = ConfigDict({"kind": "parquet", "path": None, **evaluation})
        if config.evaluation.data.path == "train":
            with config.evaluation.data.ignore_type():
                config.evaluation.data.path = config.data.train.get_oneway_ref("path")
        config.evaluation.templates = attack["templates"]
        return config
    config.train.batch_size = 64
    config.train.steps = 300
    config.optimizer.learning_rate = learning_rate
    if stage in ("supervised", "probe"):
        config.data.train.class_name = "class_name"
        supervise(config, probe=stage == "probe")
    else:
        config.objective.in_modal = 1.0 if stage == "cleanclip" else 0.0
    return config


def supervise(config: ConfigDict, probe: bool) -> None:
    """Makes a config one of supervised training: the image tower's, or with `probe` a head's alone.

    A linear head on un-normalised features, cross-entropy with the class, weight decay 0.01, no
    augmentation (arXiv 2303.03323, section 5).
    """
    config.objective.cross_modal = 0.0
    config.objective.in_modal = 0.0
    config.objective.classification = 1.0
    config.train.trainable = "head" if probe else "visual"
    config.optimizer.weight_decay = 0.01
    if probe:
        config.optimizer.learning_rate = 5e-3
        config.optimizer.warmup_steps = 0
