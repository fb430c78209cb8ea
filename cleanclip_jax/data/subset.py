"""The records of a source that have a class: what supervised training sees."""

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Record, Source, fingerprint_of


class Labelled:
    """A source without its records that have no class; their number is logged.

    Raises:
      UserError: the source has no classes, or no record has one.
    """

    def __init__(self, source: Source):
        if not source.class_names:
            raise UserError(
                "config.data.train has no classes, which a head is trained on: name their column "
                "with config.data.train.class_name"
            )
        labels = source.labels()
        self._source, self._index = source, np.flatnonzero(labels >= 0)
        if not len(self._index):
            raise UserError("config.data.train: no record has a class")
        self._labels = labels[self._index]
        self.class_names: tuple[str, ...] | None = source.class_names
        self.fingerprint = fingerprint_of(labelled=source.fingerprint)

    def __reduce__(self):
        return Labelled, (self._source,)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._index[index])]

    def caption(self, index: int) -> str:
        return self._source.caption(int(self._index[index]))

    def where(self, index: int) -> str:
        return self._source.where(int(self._index[index]))

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._labels
