"""How many pairs a core makes ready for training in a second, in each way of doing it.

    python benchmarks/input_pipeline.py [--sizes=1024x768] [--rounds=7] [--seconds=2]

Two views of each pair at 224 pixels, from JPEGs of 500 x 375 (107 kB) and 1024 x 768 (344 kB),
made of scikit-learn's two photographs. The ways:

    original        the original's order: open and decode for each view, AutoAugment at full size,
                    Pillow's bicubic, float32 normalised on the host; no text, which it makes once
    exact           data.pipeline.train_batches: the same pixels, and EDA and tokens
    fast            the same with decode="fast"
    prepared exact  exact, and
    prepared fast   fast, from what `cleanclip prepare --short_side=256` makes of the pictures

Each way has a process of its own; they take turns, so that what else the machine does hits all
alike. Printed are JSON lines, then a table: pairs in a second of processor time and of the wall's
clock, medians over the rounds, and the median of each round's ratio to the original. Last, batches
of two worker processes against one, by the wall's clock: that needs two idle cores.
"""

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.stream.pipeline import Batch, Reading, Views, train_batches
from cleanclip_jax.jobs import prepare
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.autoaugment import autoaugment

SIDE, BATCH = 224, 16
ROWS = 1000  # Grain's shuffle takes its time for a set of a few records only
SIZES = {"500x375": (500, 375, 107_000), "1024x768": (1024, 768, 344_000)}
WAYS = ("original", "exact", "fast", "prepared exact", "prepared fast")
WORKERS = ("exact 1", "exact 2")
# OpenAI's, as in views/normalise.py.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
WORDS = "a photo of the red old temple with small yellow flowers under trees in evening light near"


def original(path: Path, rng: np.random.Generator) -> np.ndarray:
    """One pair's pictures as the original makes them: float32 [2, 3, 224, 224]."""

    def shown(image: Image.Image) -> np.ndarray:
        short = min(image.size)
        width, height = (SIDE * side // short for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
        image = image.crop((left, top, left + SIDE, top + SIDE)).convert("RGB")
        pixels = np.asarray(image).astype(np.float32) / 255
        return ((pixels - MEAN) / STD).transpose(2, 0, 1)

    return np.stack([shown(Image.open(path)), shown(autoaugment(Image.open(path), rng))])


def original_batches(folder: Path) -> Generator[np.ndarray]:
    paths, rng = sorted(folder.glob("*.jpg")), np.random.default_rng(0)
    while True:
        yield np.stack([original(paths[i], rng) for i in rng.integers(len(paths), size=BATCH)])


def our_batches(config: dict, decode: str, workers: int) -> Generator[Batch]:
    source = open_source(config)
    tokenizer = Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 77)
    with train_batches(
        source,
        tokenizer,
        Reading(BATCH, workers, decode=decode),
        views=Views("autoaugment", "eda"),
        image_size=SIDE,
        seed=0,
    ) as stream:
        yield from stream


def batches_of(way: str, folder: Path, workers: int) -> Generator[object]:
    if way == "original":
        # It runs with Pillow's own settings (images/decode.py).
        Image.core.set_blocks_max(0)  # pyright: ignore[reportAttributeAccessIssue]
        return original_batches(folder / "pictures")
    prepared, _, decode = way.rpartition(" ")
    if prepared:
        return our_batches(
            {"kind": "arrayrecord", "path": str(folder / "prepared")}, decode, workers
        )
    return our_batches(
        {"kind": "csv", "path": str(folder / "pictures" / "pairs.csv")}, decode, workers
    )


def take_turns(batches: Iterator[object], turns: Connection) -> None:
    """Answers each number of seconds with what so long a turn made: pairs, processor, wall."""
    while (seconds := turns.recv()) is not None:
        # What was made ahead since the last turn: from here on it is made in this one.
        for _ in range(8):
            next(batches)
        cpu, wall, pairs = time.process_time(), time.perf_counter(), 0
        while time.perf_counter() - wall < seconds:
            next(batches)
            pairs += BATCH
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        time.sleep(1)  # until it has made ahead again: the next one is to have the core
        turns.send((pairs, cpu, wall))


def contender(way: str, folder: Path, turns: Connection) -> None:
    """One way, in a process of its own; 'exact 2' is exact with two workers."""
    *name, last = way.split(" ")
    workers = int(last) if last.isdecimal() else 0
    batches = batches_of(" ".join(name) if workers else way, folder, workers)
    with contextlib.closing(batches):
        take_turns(batches, turns)


def play(ways: Sequence[str], folder: Path, rounds: int, seconds: float) -> dict[str, np.ndarray]:
    """Pairs a second by processor and by wall [rounds, 2], by way."""
    context, players, found = multiprocessing.get_context("spawn"), {}, {way: [] for way in ways}
    for way in ways:
        here, there = context.Pipe()
        process = context.Process(target=contender, args=(way, folder, there))
        process.start()
        players[way] = (process, here)
    for turn in range(rounds + 1):
        for way, (_, pipe) in players.items():
            pipe.send(seconds)
            pairs, cpu, wall = pipe.recv()
            if turn:  # the first fills caches
                found[way].append((pairs / cpu, pairs / wall))
    for process, pipe in players.values():
        pipe.send(None)
        process.join()
    return {way: np.array(rows) for way, rows in found.items()}


def write_pictures(folder: Path, count: int, width: int, height: int, size: int) -> None:
    """JPEGs of q95, 4:2:0 and about `size` bytes, crops with noise, and a CSV that repeats them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    photographs = [
        Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")
    ]
    for i in range(count):
        photograph = photographs[i % 2]
        side = rng.uniform(0.6, 1.0) * min(photograph.width / width, photograph.height / height)
        box = side * width, side * height
        left, top = rng.uniform((0, 0), np.subtract(photograph.size, box))
        crop = photograph.resize((width, height), box=(left, top, left + box[0], top + box[1]))
        noise = rng.standard_normal((height, width, 1), np.float32)
        wanted, low, high, data = size * rng.uniform(0.8, 1.2), 0.0, 60.0, b""
        for _ in range(7):
            middle = (low + high) / 2
            stream = io.BytesIO()
            noisy = (np.asarray(crop) + middle * noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(stream, "jpeg", quality=95, subsampling="4:2:0")
            data = stream.getvalue()
            low, high = (low, middle) if len(data) > wanted else (middle, high)
        (folder / f"{i:03d}.jpg").write_bytes(data)
    captions = (" ".join(rng.choice(WORDS.split(), 10)) for _ in range(ROWS))
    rows = [(f"{row % count:03d}.jpg", caption) for row, caption in enumerate(captions)]
    with (folder / "pairs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "caption"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48, help="of each size")
    parser.add_argument("--sizes", default=",".join(SIZES), help="of those above")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    asked = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CLEANCLIP_CACHE"] = str(Path(scratch) / "cache")
        for name in asked.sizes.split(","):
            width, height, size = SIZES[name]
            folder = Path(scratch) / name
            write_pictures(folder / "pictures", asked.pictures, width, height, size)
            source = {"kind": "csv", "path": str(folder / "pictures" / "pairs.csv")}
            prepared = f"--output={folder / 'prepared'}"
            prepare.main([f"--source={source}", prepared, "--short_side=256", "--shards=1"])
            for ways, clock in ((WAYS, 0), (WORKERS, 1)):
                found = play(ways, folder, asked.rounds, asked.seconds)
                for way, rows in found.items():
                    ratio = float(np.median(rows[:, clock] / found[ways[0]][:, clock]))
                    cpu, wall = (round(float(rate)) for rate in np.median(rows, axis=0))
                    table.append((name, way, cpu, wall, f"{ratio:.2f} x {ways[0]}"))
                    line = {"size": name, "way": way, "pairs_per_cpu_second": cpu}
                    line |= {"pairs_per_second": wall, "against": ways[0], "ratio": ratio}
                    print(json.dumps(line), flush=True)
    print(f"\n{'picture':10}{'way':16}{'per core':>9}{'per s':>7}  ratio")
    for name, way, cpu, wall, ratio in table:
        # Of workers the processor time is not this process's.
        print(f"{name:10}{way:16}{cpu if way in WAYS else '':>9}{wall:7}  {ratio}")


if __name__ == "__main__":
    main()
