"""How long measuring takes once the features are there: zero-shot classes, and retrieval.

    python benchmarks/zeroshot.py                                  50,000 x 1,000
    python benchmarks/zeroshot.py --retrieval=10000,50000          pictures, captions

Random features stand for a model's: the arithmetic is the same. Prints a JSON line for each part:
seconds, and the peak of the process's memory in GiB.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cleanclip_jax.measure.feature_cache import load_features, save_features
from cleanclip_jax.measure.ranks import Classifier, rank_classes, unit
from cleanclip_jax.measure.retrieval import retrieval_ranks
from cleanclip_jax.sharding import make_mesh


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1024, help="of an embedding; RN50's is 1,024")
    parser.add_argument("--retrieval", help="PICTURES,CAPTIONS in place of classes")
    asked = parser.parse_args()
    if asked.retrieval:
        pictures, captions = map(int, asked.retrieval.split(","))
        retrieval(pictures, captions, asked.width)
    else:
        zeroshot(asked.pictures, asked.classes, asked.width)


def zeroshot(pictures: int, classes: int, width: int) -> None:
    """Features kept and opened, and the label and the target ranked for each picture."""
    rng, mesh = np.random.default_rng(0), make_mesh()
    features = rng.standard_normal((pictures, width), dtype=np.float32)
    weights = unit(rng.standard_normal((classes, width), dtype=np.float32))
    classifier = Classifier(tuple(map(str, range(classes))), weights, None, True, "text")
    asked = np.stack([rng.integers(0, classes, pictures), np.full(pictures, 7)], 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        timed(
            "save",
            lambda: save_features(path, features, {}, limit=100),
            pictures=pictures,
            width=width,
        )
        rows, _ = timed(
            "open and check", lambda: load_features(path), pictures=pictures, width=width
        )
        for part in ("rank, first", "rank, compiled"):
            timed(
                part,
                lambda: rank_classes(rows, asked, classifier, mesh),
                pictures=pictures,
                classes=classes,
                width=width,
            )


def retrieval(pictures: int, captions: int, width: int) -> None:
    """Ranks both ways."""
    rng, mesh = np.random.default_rng(0), make_mesh()
    images = unit(rng.standard_normal((pictures, width), dtype=np.float32))
    texts = unit(rng.standard_normal((captions, width), dtype=np.float32))
    owner = np.sort(rng.integers(0, pictures, captions))
    sizes = {"pictures": pictures, "captions": captions, "width": width}
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"part": "made", "peak_gib": round(held, 2), **sizes}), flush=True)
    timed("retrieval", lambda: retrieval_ranks(images, texts, owner, mesh), **sizes)


def timed(part: str, work: Callable[[], Any], **sizes: int) -> Any:
    """Runs `work`, prints what it took and returns what it gave."""
    began, used = time.perf_counter(), time.process_time()
    found = work()
    line = {
        "part": part,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - used, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **sizes,
        "devices": f"{jax.device_count()} {jax.devices()[0].platform}, {os.cpu_count()} cores",
    }
    print(json.dumps(line), flush=True)
    return found


if __name__ == "__main__":
    main()
