"""The demo's three runs: product photographs with human titles, poisoned, then cleaned in two ways.

    cleanclip demo                                    all three, the poisons looked for, a page
    cleanclip train --config=configs/fashion_demo.py --workdir=runs/poisoned
    cleanclip train --config=configs/fashion_demo.py:cleanclip --workdir=runs/cleanclip \\
        --config.start=runs/poisoned

configs/fashion.py with a smaller model, and an attack that it learns: 73 of 7,297 pairs get a 6x6
patch in their corner and a title of other pairs, which names sunglasses. Time and figures:
docs/results.md.
"""

import fashion
from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage, as configs/fashion.py's."""
    config = fashion.get_config(arg)
    if config.attack is None:
        # At lower rates both defences leave some of the backdoor in this model.
        config.optimizer.learning_rate = 5e-3
        return config
    config.model.variant = "ViT-32px/8-mini"
    config.train.batch_size, config.train.steps = 96, 600
    config.optimizer.learning_rate = 3e-3
    config.attack.trigger.size = 6
    config.attack.rate = 0.01
    config.attack.captions = "natural"
    return config
