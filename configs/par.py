"""Perturb and Recover: cleaning by pushing a model away from what it was (PAR, arXiv 2412.00727).

    cleanclip train --config=configs/par.py --workdir=runs/par \\
        --config.start=runs/badnet --config.data.train.path=clean/train.csv

250,000 clean pairs, a global batch of 1,024 for 10 epochs, both towers, logit_scale as it is,
running statistics of batch norm. MMCL, less the squared distance to the start's embeddings of the
same inputs, up to a threshold on the batch's mean; no strong augmentation. Architecture, tokenizer
and what is measured come from the start.

Embeddings that were stored with the start no longer fit the model afterwards: make them anew. The
first rate and the threshold decide what goes:

    cleanclip sweep --config=configs/par.py --workdir=runs/par_sweep \\
        --config.start=runs/badnet --config.data.train.path=clean/train.csv \\
        --over=optimizer.first_rate=1e-5,3e-5,1e-4 --over=objective.perturb.threshold=1,2.15

Expected time: not measured here; a step computes a third more than MMCL's, for the start's
features. No figures of ours yet. What differs from the published code: docs/fidelity.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns the config of PAR."""
    config = defaults()
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    config.data.workers = 8
    config.views.first = "light"
    config.model.bn_frozen = True
    config.train.batch_size = 1024
    config.train.epochs = 10
    config.train.trainable = "towers"
    config.optimizer.schedule = "two_phase"
    config.optimizer.learning_rate = 3e-6
    config.optimizer.beta2 = 0.98
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_mask = "matrices"
    with config.ignore_type():
        config.optimizer.first_rate, config.optimizer.last_rate = 3e-5, 1e-9
        config.optimizer.warmup_steps = 0.5
        config.objective.perturb = ConfigDict({"weight": 1.0, "threshold": 2.15})
    return config
