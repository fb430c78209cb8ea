"""A made dataset and a made model: a picture's embedding is a projection of its pixels."""

from typing import ClassVar

import numpy as np

from cleanclip_jax.detect.detectors import DETECTORS
from cleanclip_jax.detect.embedded import Data
from cleanclip_jax.detect.findings import write_findings
from cleanclip_jax.detect.groups import find_groups
from cleanclip_jax.detect.opened import Opened
from cleanclip_jax.detect.scan import Pass, scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.models.clip import build
from cleanclip_jax.record import Record, Source
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import BadRecord

SIDE = 16


class MadePairs(Source):
    """Pictures of ten topics, each of its own grey pattern and noise; others are put among them."""

    class_names = None

    def __init__(self, count: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.topics = rng.integers(60, 190, (11, SIDE, SIDE, 3))
        self.labelled = rng.integers(10, size=count)
        noise = rng.normal(0, 25, (count, SIDE, SIDE, 3))
        self.images = np.clip(self.topics[self.labelled] + noise, 0, 255).astype(np.uint8)
        self.captions = [f"picture {i} of topic {t}" for i, t in enumerate(self.labelled)]
        self.fingerprint = f"made {count} {seed}"
        self.bad: tuple[int, ...] = ()
        self.rng = rng

    def plant(self, rows, caption: str | None = None, noise: float = 25) -> np.ndarray:
        """Makes these pairs pictures of an eleventh topic, under a caption."""
        rows = np.asarray(rows)
        drawn = self.rng.normal(0, noise, (len(rows), SIDE, SIDE, 3))
        self.images[rows] = np.clip(self.topics[10] + drawn, 0, 255).astype(np.uint8)
        for row in rows.tolist():
            self.captions[row] = caption or f"another topic {row}"
        self.fingerprint += f" {rows.tolist()}"
        return rows

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        if index in self.bad:
            raise BadRecord(f"{self.where(index)}: broken.")
        return Record(self.images[index], self.captions[index], -1, self.where(index))

    def caption(self, index: int) -> str:
        return self.captions[index]

    def where(self, index: int) -> str:
        return f"made row {index}"

    def labels(self) -> np.ndarray:
        return np.full(len(self), -1)


class MadeEncoder(Encoder):
    """Embeddings by projections; counts what it encodes."""

    counts: ClassVar[list[int]] = [0, 0]  # pictures and texts

    def image_features(self, images, batch_size):
        self.counts[0] += len(images)
        rows = images.reshape(len(images), -1).astype(np.float32) / 128 - 1
        return rows @ np.asarray(self.variables["params"]["visual"])

    def text_features(self, texts):
        self.counts[1] += len(texts)
        words = self.variables["params"]["text"]
        return np.stack([sum(words[hash_of(word)] for word in text.split()) for text in texts])


def hash_of(word: str) -> int:
    return sum(word.encode()) % 97


def make_encoder(seed: int = 0) -> MadeEncoder:
    model = build("ViT-test-one", vocab_size=300, image_size=SIDE)
    rng, width = np.random.default_rng(seed), model.variant.features
    towers = {
        "visual": rng.normal(size=(SIDE * SIDE * 3, width)).astype(np.float32),
        "text": rng.normal(size=(97, width)).astype(np.float32),
        "logit_scale": np.float32(4.6),
    }
    tokenizer = Tokenizer.train(["a zero."], 300, 16)
    return MadeEncoder(model, {"params": towers}, tokenizer, make_mesh(1))


def scan_of(source, folder, by="slof", poisoned=None):
    """A scan of pairs with all that is written of it; returns what was opened, and its groups."""
    encoder, settings, reading = make_encoder(), Settings(("slof", "kdist"), 8, 120, 2), Reading(64)
    rows = {name: DETECTORS[name] for name in settings.detectors}
    data = Data(source, poisoned=poisoned)
    run = Pass("run", lambda: encoder, rows)
    opened = Opened(data, [run], reading, {"path": "a run"}, None, ["a warning"])
    scores = scan([run], data, settings, reading, folder)
    groups = find_groups(encoder, data, scores, settings, by, reading)
    write_findings(folder, opened, settings, scores, groups, by, 0.02, 50)
    return opened, groups
