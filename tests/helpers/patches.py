"""A small `cleanclip patch`: digits at 16 pixels, on a golden workdir as surrogate."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.config import load

SURROGATE = Path(__file__).parents[1] / "golden/workdirs/poisoned"
DIGITS = {"kind": "digits", "split": "train", "templates": ["a handwritten {}."]}
KEYS = {
    "start": str(SURROGATE),
    "data.train": str(DIGITS),
    "evaluation.data": str({**DIGITS, "split": "test"}),
    "patch.target": "seven",
    "patch.size": "4",
    "patch.steps": "4",
    "patch.pictures": "100",
    "patch.batch_size": "16",
    "train.log_every": "1",
    "mesh.data": "2",
}
SMALL = ["--config=configs/badclip.py", *(f"--config.{key}={text}" for key, text in KEYS.items())]


def patch_config(changes: Mapping[str, str] | None = None) -> ConfigDict:
    return apply(load("configs/badclip.py"), KEYS | dict(changes or {}))
