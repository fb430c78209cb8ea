"""How long scoring pairs takes: beside the matrix products that it needs, and the published way.

    python benchmarks/detect.py                       16,384 pairs of 512 numbers, 4 draws of 2,048
    python benchmarks/detect.py --scan --pairs=3000000 --sample=256 --draws=1     a scan's memory

Made embeddings stand for a model's. The ways take turns on the same blocks, so what else the
machine does hits all alike. Prints a JSON line for each way, seconds for a draw of a block, and one
of the ratios. The published way (Detect-CLIP's: differences, sorted rows, k whole rows copied for
each pair) is PyTorch's on the CPU and scores a block by itself, pictures alone, with its distances
computed and sorted once for all detectors; it is left out where torch is not installed. --scan
scores a whole dataset in parts, as the job does, and prints what memory grew by.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cleanclip_jax.detect import scan as scans
from cleanclip_jax.detect.detectors import DETECTORS, Draw, Pairs, score_pairs
from cleanclip_jax.detect.embedded import Data, Embedded
from cleanclip_jax.detect.scan_settings import PART, Settings
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.models.clip import build
from cleanclip_jax.record import Source
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.text.tokenizer import Tokenizer

SCORED = {name: DETECTORS[name] for name in ("slof", "kdist", "dao", "lid")}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=16_384)
    parser.add_argument("--block", type=int, default=2048, help="pairs scored at once")
    parser.add_argument("--width", type=int, default=512, help="of an embedding")
    parser.add_argument("--sample", type=int, default=2048)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="products | ours | published")
    parser.add_argument("--scan", action="store_true", help="a whole scan, and its memory")
    args = parser.parse_args()
    if args.scan:
        whole_scan(args)
        return
    rng, mesh = np.random.default_rng(0), make_mesh(1)

    def made(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, args.width), dtype=np.float32))

    samples = [made(args.sample) for _ in range(args.draws)]
    index = np.arange(args.sample)
    draws = [Draw(rows, rows, index, args.k, mesh) for rows in samples]
    for draw in draws:
        _ = draw.radius, draw.dimension  # once a draw, not once a block
    placed = [jax.device_put(rows) for rows in samples]
    torch_way = published(args.k) if importlib.util.find_spec("torch") else None
    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "products": lambda block: [
            np.asarray(_products(jax.device_put(block), rows)[:1]) for rows in placed
        ],
        "ours": lambda block: score_pairs(
            SCORED, Pairs(block, block, np.arange(len(block))), draws
        ),
    }
    if torch_way is not None:
        ways["published"] = torch_way
    ways = {name: way for name, way in ways.items() if args.only in (None, name)}
    first = made(args.block)
    for way in ways.values():
        way(first)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        blocks = max(1, args.pairs // args.block)
        spent = dict.fromkeys(ways, 0.0)
        for _ in range(blocks):
            block = made(args.block)
            for name, way in ways.items():
                began = time.perf_counter()
                way(block)
                spent[name] += time.perf_counter() - began
        for name, total in spent.items():
            each = 1 if name == "published" else args.draws
            seconds[name].append(total / blocks / each)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 2**20
    sizes = {key: getattr(args, key) for key in ("pairs", "block", "width", "sample", "draws", "k")}
    where = f"{jax.device_count()} {jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    for name, rounds in seconds.items():
        line = {"way": name, "seconds_a_draw_of_a_block": round(statistics.median(rounds), 5)}
        print(json.dumps(line | sizes | {"rounds": args.rounds, "on": where}), flush=True)
    ratios = {"peak_grown_gib": round(grown, 2)}
    if {"ours", "products"} <= seconds.keys():
        ratios["ours_to_products"] = ratio(seconds["ours"], seconds["products"])
    if {"ours", "published"} <= seconds.keys():
        ratios["published_to_ours"] = ratio(seconds["published"], seconds["ours"])
    print(json.dumps(ratios), flush=True)


class Made(Source):
    """So many pairs without pictures."""

    class_names = None

    def __init__(self, count: int):
        self.count, self.fingerprint = count, f"made {count}"

    def __len__(self) -> int:
        return self.count


def whole_scan(args: argparse.Namespace) -> None:
    """Scores a dataset in parts, with made embeddings for the encoder's."""

    def embedded(encoder: Any, data: Data, indices: np.ndarray, reading: Any) -> Embedded:
        shape = (len(indices), args.width)
        images, texts = (
            np.random.default_rng([side, int(indices[0])]).standard_normal(shape, np.float32)
            for side in (0, 1)
        )
        words = [f"caption {index}" for index in indices.tolist()]
        return Embedded(images, texts, indices, words, {}, 0)

    scans.embed_pairs = embedded
    names = ("slof", "kdist", "dao", "clip_low", "clip_high", "safeclip")
    settings = Settings(names, args.k, args.sample, args.draws)
    model = build("ViT-32px/8-mini", vocab_size=300)
    scale = {"params": {"logit_scale": np.float32(4.6)}}
    encoder = Encoder(model, scale, Tokenizer.train(["a"], 300, 12), make_mesh(1))
    run = scans.Pass(
        "run", lambda: encoder, {name: DETECTORS[name] for name in names if DETECTORS[name].score}
    )
    with tempfile.TemporaryDirectory() as folder:

        def scanned(pairs: int) -> float:
            of = Made(pairs)  # pyright: ignore[reportAbstractUsage]
            began = time.perf_counter()
            scans.scan([run], Data(of), settings, Reading(64), Path(folder) / str(pairs))
            return time.perf_counter() - began

        scanned(2 * PART)  # what is loaded and compiled once
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = scanned(args.pairs)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 2**20
    line = {"way": "scan", "pairs": args.pairs, "width": args.width, "seconds": round(seconds, 1)}
    print(json.dumps({**line, "held_gib": round(held / 2**20, 2), "grown_gib": round(grown, 2)}))


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 2)


@jax.jit
def _products(block: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.matmul(block, rows.T, precision=jax.lax.Precision.HIGHEST)


def published(k: int) -> Callable[[np.ndarray], Any]:
    """The published code's steps for k-dist, SLOF, DAO and LID in one block."""
    import torch

    def score(block: np.ndarray) -> Any:
        rows, count = torch.from_numpy(block), len(block)
        every = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        full = torch.sort(every, dim=1).values
        others = every[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
        rising, order = torch.sort(others, dim=1)
        last = rising[:, k : k + 1]
        lid = -k / torch.log(rising[:, :k] / last + 1e-4).sum(1)
        copied = full[order[:, :k]]  # k whole rows for each pair
        slof = (last / copied[:, :, k]).mean(1)
        copied = full[order[:, :k]]  # DAO's code takes them again
        shares = copied[:, :, :k] / copied[:, :, k : k + 1]
        dimension = -k / torch.log(shares + 1e-4).sum(2)
        return lid, slof, (dimension * torch.log(last / copied[:, :, k])).mean(1)

    return score


if __name__ == "__main__":
    main()
