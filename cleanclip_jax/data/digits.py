"""scikit-learn's handwritten digits: real handwriting that comes with a package."""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.record import Record, Source, fingerprint_of, template_caption
from cleanclip_jax.text.prompts import templates as find_templates

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_ROWS = 400
SPLIT_SEED = 0


def _whole() -> tuple[Int64[np.ndarray, "n 64"], Int64[np.ndarray, " n"]]:
    """All digits, values 0 to 16, and their labels: `sklearn.datasets.load_digits` reads this file.

    It is read without that module, which takes more than a second to import.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("the digits come with scikit-learn: pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, dtype=np.int64, delimiter=",")
    return table[:, :-1], table[:, -1]


class Digits(Source):
    """1,797 digits of 8x8 pixels, 1,397 of them 'train' and 400 'test', by a fixed shuffle.

    Captions are templates filled with the digit's English name. Small enough (345 kB) to be
    held in memory and sent to the workers whole.
    """

    class_names: tuple[str, ...] | None = NAMES

    def __init__(self, split: str = "train", templates: str | Sequence[str] = "digits"):
        if split not in ("train", "test"):
            raise unknown("config.data (digits).split", split, ("train", "test"))
        images, labels = _whole()
        order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
        rows = np.sort(order[:TEST_ROWS] if split == "test" else order[TEST_ROWS:])
        grey = np.rint(images[rows] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        self._images = np.repeat(grey, 3, axis=-1)
        self._labels = labels[rows]
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
