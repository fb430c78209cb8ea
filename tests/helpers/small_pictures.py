"""A set of a few random pictures, for what measures."""

import numpy as np

from cleanclip_jax.record import Record, Source
from cleanclip_jax.views.decode import BadRecord

NAMES = ("zero", "one", "two", "one")  # a name may occur twice


class Pictures(Source):
    """Random pictures of 16 pixels with the given labels; those of `bad` can't be read."""

    def __init__(self, labels, names=NAMES, bad=(), seed=0):
        self._labels, self.bad, self.seed = np.asarray(labels, np.int64), list(bad), seed
        self.class_names = names
        self.fingerprint = f"pictures {len(self._labels)} of {seed}"

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Record:
        if index in self.bad:
            raise BadRecord(f"{self.where(index)}: broken.")
        rng = np.random.default_rng([self.seed, index])
        picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return Record(picture, self.caption(index), int(self._labels[index]), self.where(index))

    def caption(self, index: int) -> str:
        return f"picture number {index}"

    def where(self, index: int) -> str:
        return f"picture {index}"

    def labels(self):
        return self._labels
