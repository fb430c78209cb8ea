"""Seconds and memory of opening a large CSV of pairs, and of reading it in worker processes.

    python benchmarks/open_table.py --rows=3300000

Writes a CSV of that many paths and captions (100 bytes a row), and a few small pictures that
they name, to a temporary folder. Prints a JSON line a phase, each run in a process of its own:

    first      the first opening, with the conversion to the cache
    later      the second opening
    captions   every caption, one by one
    training   batches of random rows, made in --workers processes

`seconds` are of the phase alone, imports aside. `peak_mib` is the process's largest resident set,
with the imports; in training `total_mib` is the proportional share of main process and workers
together (PSS: what they share counts once), and `resident_mib` the sum of their resident sets.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 100
WORDS = (  # of web captions
    "a the of in on cat dog man woman standing street beach photo view sunset person football "
    "player during match city building red blue white black illustration vector background design"
)


def write_csv(folder: Path, rows: int) -> Path:
    draw, words = random.Random(0), WORDS.split()
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        pixels = rng.integers(256, size=(48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:033d}.jpg")
    path = folder / "pairs.csv"
    with path.open("w") as stream:
        stream.write("image,caption\n")
        for i in range(rows):
            caption = " ".join(draw.choices(words, k=11))
            stream.write(f'{i % PICTURES:033d}.jpg,"{caption}, and {i}"\n')
    return path


def run_phase(name: str, path: Path, workers: int) -> dict[str, float]:
    from cleanclip_jax.data.sources import open_source

    began = time.perf_counter()
    source = open_source({"kind": "csv", "path": str(path)})
    measured: dict[str, float] = {"rows": len(source)}
    if name == "captions":
        began = time.perf_counter()
        measured["letters"] = sum(len(source.caption(i)) for i in range(len(source)))
    elif name == "training":
        measured |= train(source, workers)
        began += measured.pop("opened_seconds")
    measured["seconds"] = round(time.perf_counter() - began, 2)
    measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return measured


def train(source, workers: int, batches: int = 300) -> dict[str, float]:
    from cleanclip_jax.data.stream.pipeline import Reading, train_batches
    from cleanclip_jax.text.tokenizer import Tokenizer

    began = time.perf_counter()
    tokenizer = Tokenizer.train((source.caption(i) for i in range(2000)), 500, 32)
    stream = train_batches(source, tokenizer, Reading(256, workers), image_size=32, seed=0)
    with stream:
        next(stream)
        opened = time.perf_counter() - began
        most: dict[str, float] = {"Pss": 0, "Rss": 0}
        for i in range(batches):
            next(stream)
            if i % 50 == 49:
                most = {key: max(most[key], memory(key)) for key in most}
    return {
        "opened_seconds": opened,
        "pairs": batches * 256,
        "total_mib": round(most["Pss"]),
        "resident_mib": round(most["Rss"]),
    }


def memory(key: str) -> float:
    """MiB of this process and its children."""
    total = 0
    for process in [os.getpid(), *children(os.getpid())]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{key}:"):
                total += int(line.split()[1])
    return total / 1024


def children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_300_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--phase", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        name, path = given.phase
        print(json.dumps({"phase": name} | run_phase(name, Path(path), given.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_csv(Path(folder), given.rows)
        environment = os.environ | {"CLEANCLIP_CACHE": f"{folder}/cache"}
        print(json.dumps({"phase": "file", "rows": given.rows, "mb": path.stat().st_size // 10**6}))
        for name in ("first", "later", "captions", "training"):
            command = [sys.executable, __file__, f"--workers={given.workers}", "--phase", name]
            subprocess.run([*command, str(path)], check=True, env=environment)


if __name__ == "__main__":
    main()
