"""The demo's three runs: product photographs with human titles, poisoned, then cleaned in two ways.

    cleanclip demo                                    all three, the poisons looked for, a page
    cleanclip train --config=configs/fashion_demo.py --workdir=runs/poisoned
    cleanclip train --config=configs/fashion_demo.py:cleanclip --workdir=runs/cleanclip \\
        --config.start=runs/poisoned

configs/fashion.py with a smaller model, in minutes on two cores. Time and figures: docs/results.md.
"""

import fashion
from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of one stage, as configs/fashion.py's."""
    config = fashion.get_config(arg)
    if config.attack is None:
        return config
    config.model.variant = "ViT-32px/8-mini"
    return config
