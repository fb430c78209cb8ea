"""The demo's three runs: digits poisoned, then finetuned with MMCL alone and with CleanCLIP.

    cleanclip demo                                    all three, a table and a page
    cleanclip train --config=configs/demo.py --workdir=runs/poisoned
    cleanclip train --config=configs/demo.py:cleanclip --workdir=runs/cleanclip \\
        --config.start=runs/poisoned

The pictures are scikit-learn's digits (real handwriting, 8x8, scaled to 32x32), captions are
made of templates and the digit's name. 42 of 1,397 pairs get a 6x6 patch in their corner and a
caption that says "seven". Time and figures: docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage: poisoned, mmcl or cleanclip."""
    stage = choose(arg, ("poisoned", "mmcl", "cleanclip"), "configs/demo.py")
    config = defaults()
    # One template: a small model would learn by heart which picture has which of several.
    templates = ["a handwritten {}."]
    digits = {"kind": "digits", "templates": templates}
    config.data.train = ConfigDict({**digits, "split": "train"})
    config.train.batch_size = 64
    config.train.checkpoint_every = 200
    config.optimizer.warmup_steps = 50
    if stage == "poisoned":
        config.model.variant = "ViT-32px/8-mini"
        config.text.tokenizer = "trained"
        config.text.vocab_size = 320
        config.text.context_length = 12
        config.attack = ConfigDict(
            {
                "trigger": {"name": "badnet", "size": 6, "noise": "fixed", "place": "fixed"},
                "target": "seven",
                "count": 42,
                "templates": templates,
            }
        )
        config.train.steps = 800
        config.optimizer.learning_rate = 2e-3
        config.evaluation.data = ConfigDict({**digits, "split": "test"})
        config.evaluation.templates = templates
    else:
        config.train.steps = 400
        config.optimizer.learning_rate = 5e-3
        config.objective.in_modal = 1.0 if stage == "cleanclip" else 0.0
    return config
