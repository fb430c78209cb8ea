"""A source in memory, for what poisons."""

from collections.abc import Sequence

import numpy as np

from cleanclip_jax.record import Record, Source
from cleanclip_jax.views.decode import BadRecord


class Pictures(Source):
    """Pictures of 8x8 pixels, another for each index, with the given captions and labels.

    Those in `missing` can't be read.
    """

    def __init__(
        self,
        captions: Sequence[str],
        fingerprint: str = "a" * 64,
        labels: Sequence[int] | None = None,
        class_names: tuple[str, ...] | None = None,
        missing: Sequence[int] = (),
    ):
        self.fingerprint, self.class_names = fingerprint, class_names
        self._captions, self._missing = captions, set(missing)
        self._labels = np.array([-1] * len(captions) if labels is None else labels, np.int64)

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, index: int) -> Record:
        if index in self._missing:
            raise BadRecord(f"{self.where(index)}: it is missing.")
        picture = np.random.default_rng(index).integers(256, size=(8, 8, 3), dtype=np.uint8)
        return Record(picture, self.caption(index), int(self._labels[index]), self.where(index))

    def caption(self, index: int) -> str:
        return self._captions[index]

    def where(self, index: int) -> str:
        return f"pictures row {index}"

    def labels(self) -> np.ndarray:
        return self._labels
