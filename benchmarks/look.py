"""How many poisons left among cleaning pairs the detectors see, by a model that learnt them.

    python benchmarks/look.py runs/poisoned [--counts=10,25] [--k=16,64] [--seed=77]

Of the run's own kind: so many pairs of its data are poisoned anew by its attack and put beside all
clean ones. Prints for each detector how many are among the highest 1, 2 and 5 % of the scores.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

from cleanclip_jax import cli
from cleanclip_jax.detect.opened import open_scan
from cleanclip_jax.detect.scan import scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.start.start import open_start

DETECTORS, SHARES = ("kdist", "slof", "dao", "clip_high"), (0.01, 0.02, 0.05)


def left_among(model: Path, count: int, seed: int, folder: Path) -> dict:
    """A source of a run's clean pairs, and behind them so many poisoned by its attack."""
    config = json.loads((model / "config.json").read_text())
    clean = {k: v for k, v in config["data"]["train"].items() if v is not None}
    attack = {k: v for k, v in config["attack"].items() if v is not None and k != "rate"}
    attack["count"] = count
    (folder / "attack.py").write_text(
        "from cleanclip_jax.config import defaults\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    config = defaults()\n"
        f"    config.data.train = ConfigDict({clean!r})\n"
        f"    config.attack = ConfigDict({attack!r})\n"
        "    return config\n"
    )
    out = folder / f"poisons{count}"
    words = ["poison", f"--config={folder / 'attack.py'}", f"--output={out}"]
    words += [f"--export={out / 'pictures'}", f"--config.seed={seed}"]
    words += [f"--config.model.image_size={config['model']['image_size']}"]
    words += [f"--config.model.variant={config['model']['variant']}"]
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(words):
            raise SystemExit("the poisons could not be made")
    poisons = {"kind": "csv", "path": str(out / "pictures/pairs.csv")}
    return {"kind": "mixture", "sources": {"clean": clean, "left": poisons}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--counts", default="10,25")
    parser.add_argument("--k", default="16,64")
    parser.add_argument("--seed", type=int, default=77)
    args = parser.parse_args()
    start = open_start(args.model)
    print(f"| left | k | detector | {' | '.join(f'top {s:.0%}' for s in SHARES)} |")
    print("|---" * (3 + len(SHARES)) + "|")
    with tempfile.TemporaryDirectory() as name:
        for count in map(int, args.counts.split(",")):
            source = left_among(args.model, count, args.seed, Path(name))
            for k in map(int, args.k.split(",")):
                settings = Settings(DETECTORS, k)
                opened = open_scan(start, start.config, settings, source)
                folder = Path(name) / f"scan{count}-{k}"
                scores = scan(opened.passes, opened.data, settings, opened.reading, folder)
                left = scores.index >= len(opened.data.source) - count
                for detector, column in scores.columns.items():
                    rank = np.argsort(np.argsort(-column))[left]
                    seen = [int((rank < share * len(column)).sum()) for share in SHARES]
                    print(
                        f"| {count} | {k} | {detector} | {' | '.join(map(str, seen))} |", flush=True
                    )


if __name__ == "__main__":
    main()
