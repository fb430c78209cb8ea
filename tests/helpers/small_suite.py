"""A suite of models of a few steps, one of whose cells can't be."""

from pathlib import Path

SMALL_SUITE = """
from ml_collections import ConfigDict

SMALL = (
    "model.variant=ViT-32px/8-mini", "model.image_size=16", "train.batch_size=16", "mesh.data=1",
    "train.steps=STEPS", "train.log_every=1", "optimizer.warmup_steps=1",
)
CLEAN = ("train.batch_size=16", "train.steps=2", "optimizer.warmup_steps=1", "mesh.data=1")


def get_config(arg=None):
    return ConfigDict({
        "title": "a few steps",
        "sets": {"demo": {"config": "configs/demo.py", "keys": SMALL, "clean": CLEAN}},
        "models": {"mini": ()},
        "attacks": {
            "badnet": {"keys": ("attack.trigger.size=4",)},
            "wrong": {"keys": ("attack.target=elephant",)},
        },
        "defences": {
            "mmcl": {"config": "configs/{set}.py:mmcl", "rates": (1e-3, 3e-3)},
            **({"more": {"config": "configs/{set}.py:mmcl", "rates": (2e-3,)}} if arg else {}),
        },
        "detectors": {
            "slof": {"kind": "pairs", "options": {"k": 8}},
            "bdetclip": {"kind": "pictures"},
            "decree": {"kind": "model", "options": {"steps": 2, "pictures": 64}},
        },
        "seeds": (0,),
    })
"""


def small_suite(folder: Path, steps: int = 2) -> Path:
    """Writes the suite's file; its argument adds a defence."""
    path = folder / "small_suite.py"
    path.write_text(SMALL_SUITE.replace("STEPS", str(steps)))
    return path
