"""scikit-learn's handwritten digits: real handwriting that comes with a package."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.errors import unknown
from cleanclip_jax.record import Record, Source, fingerprint_of, template_caption
from cleanclip_jax.text.prompts import templates as find_templates

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_ROWS = 400
SPLIT_SEED = 0


class Digits(Source):
    """1,797 digits of 8x8 pixels, 1,397 of them 'train' and 400 'test', by a fixed shuffle.

    Captions are templates filled with the digit's English name. Small enough (345 kB) to be
    held in memory and sent to the workers whole.
    """

    class_names: tuple[str, ...] | None = NAMES

    def __init__(self, split: str = "train", templates: str | Sequence[str] = "digits"):
        # Deferred: scikit-learn takes a second to import and other sources do not need it.
        from sklearn.datasets import load_digits

        if split not in ("train", "test"):
            raise unknown("config.data (digits).split", split, ("train", "test"))
        digits: Any = load_digits(return_X_y=True)
        images, labels = digits
        order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
        rows = np.sort(order[:TEST_ROWS] if split == "test" else order[TEST_ROWS:])
        grey = np.rint(images[rows] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        self._images = np.repeat(grey, 3, axis=-1)
        self._labels = labels[rows].astype(np.int64)
        self._rows = rows
        self._templates = find_templates(templates)
        content = hashlib.sha256(self._images.tobytes() + self._labels.tobytes()).hexdigest()
        self.fingerprint = fingerprint_of(content=content, templates=self._templates)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Record:
        return Record(
            self._images[index], self.caption(index), int(self._labels[index]), self.where(index)
        )

    def caption(self, index: int) -> str:
        return template_caption(index, self._templates, NAMES[self._labels[index]])

    def where(self, index: int) -> str:
        return f"digits row {self._rows[index]}"

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._labels
