"""Three small models of one architecture: poisoned, cleaned and never poisoned."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from cleanclip_jax.start.store import load_saved, save_first

GOLDEN = Path(__file__).parents[1] / "golden/workdirs/poisoned"
DIGITS = {"kind": "digits", "split": "train", "templates": ["a handwritten {}."]}


def another(source: Path, path: Path, seed: int, attacked: bool) -> Path:
    """A run of the same kind with other weights, which says no more of its poisons."""
    shutil.copytree(source, path, ignore=shutil.ignore_patterns("checkpoints", "poison.parquet"))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda x: np.asarray(x + 0.05 * rng.normal(size=x.shape), x.dtype), load_saved(source)[1]
    )
    save_first(path, variables)
    config = json.loads((path / "config.json").read_text())
    config["attack"] = None
    if attacked:
        config["start"] = str(source)
    else:
        config["evaluation"]["attack"] = None
    (path / "config.json").write_text(json.dumps(config))
    return path


def three_models(folder: Path) -> dict[str, Path]:
    """Their workdirs: the golden poisoned one, and two with weights that are a little others."""
    poisoned = shutil.copytree(GOLDEN, folder / "poisoned")
    return {
        "cleaned": another(poisoned, folder / "cleaned", 1, True),
        "poisoned": poisoned,
        "floor": another(poisoned, folder / "floor", 2, False),
    }
