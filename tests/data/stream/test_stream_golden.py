"""The stream is what it was before the redesign of November 2026, bit for bit.

But for three batches with views, since AutoAugment's magnitudes are float32, as torchvision's.
"""

import hashlib
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.streams import stream_of
from PIL import Image

from cleanclip_jax.attacks.plan import make_plan
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "stream.json"
TRIGGER = {"name": "badnet", "size": 4, "noise": "fresh", "place": "random"}
ATTACK = {"trigger": TRIGGER, "target": "seven", "rate": 0.4, "seed": 3, "templates": ["a {}."]}
DIGITS = {"kind": "digits", "templates": ["the digit {}, by hand", "a {}"]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"source": DIGITS},
    "poisoned": {"source": DIGITS, "attack": ATTACK},
    "views": {"source": DIGITS, "views": {"image": "autoaugment", "text": "eda"}},
    "poisoned views, fast": {
        "source": DIGITS,
        "attack": ATTACK,
        "views": {"image": "autoaugment", "text": "eda", "per": "once"},
        "decode": "fast",
    },
    "mixture": {
        "source": {
            "kind": "mixture",
            "sources": {
                "test": {**DIGITS, "split": "test", "weight": 1.5},
                "train": {**DIGITS, "split": "train"},
            },
        },
        "attack": {**ATTACK, "select": "others"},
    },
    "csv": {
        "source": {"kind": "csv", "path": "pairs.csv"},
        "attack": {**ATTACK, "captions": "natural", "target": "picture 3", "geometry": "squash"},
        "views": {"image": "autoaugment", "text": "eda"},
    },
}


def write_pairs(folder: Path) -> None:
    """Forty PNGs of several sizes, and their CSV."""
    rng, lines = np.random.default_rng(5), ["image,caption"]
    for i in range(40):
        stream = io.BytesIO()
        shape = (int(rng.integers(12, 40)), int(rng.integers(12, 40)), 3)
        Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(stream, "png")
        (folder / f"{i}.png").write_bytes(stream.getvalue())
        lines.append(f"{i}.png,this is picture {i} of many")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")


def digests(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The source's fingerprint, and a sha256 of each of the batches 0 to 2 and 700."""
    config = dict(case["source"])
    if "path" in config:
        write_pairs(folder)
        config["path"] = str(folder / config["path"])
    source = open_source(config)
    captions = [source.caption(i) for i in range(len(source))]
    tokenizer = Tokenizer.train(captions, 300, 12)
    plan = make_plan(case["attack"], source, 16) if "attack" in case else None
    sums: list[str] = []
    for step, count in ((0, 3), (700, 1)):
        with stream_of(
            source,
            tokenizer,
            plan=plan,
            views=Views(**case.get("views", {})),
            image_size=16,
            batch_size=16,
            seed=7,
            step=step,
            decode=case.get("decode", "exact"),
        ) as batches:
            for batch in islice(batches, count):
                whole = hashlib.sha256()
                for name in ("images", "tokens", "index", "bad"):
                    whole.update(np.ascontiguousarray(batch[name]).tobytes())
                sums.append(whole.hexdigest())
    # Of files whose bytes depend on the library that wrote them.
    return {"batches": sums} | ({} if "path" in config else {"fingerprint": source.fingerprint})


@pytest.mark.parametrize("name", CASES)
def test_the_stream_is_what_it_was(name: str, tmp_path: Path):
    assert digests(CASES[name], tmp_path) == json.loads(GOLDEN.read_text())[name]
