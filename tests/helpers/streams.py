"""Training batches whose arguments come as one flat list, and storage that stalls."""

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.data.stream.pipeline import Batch, Batches, Reading, train_batches
from cleanclip_jax.data.table.table import open_csv
from cleanclip_jax.record import Record, Source
from cleanclip_jax.text.tokenizer import Tokenizer

READING = {field.name for field in fields(Reading)}


def stream_of(source: Source, tokenizer: Tokenizer, **options: Any) -> Batches[Batch]:
    reading = Reading(**{key: options.pop(key) for key in READING & options.keys()})
    return train_batches(source, tokenizer, reading, **options)


class Endless(Source):
    """A CSV's pairs, of which reading the third one does not end."""

    def __init__(self, path: Path):
        self._path, self._table = path, open_csv(path)
        self.fingerprint, self.class_names = self._table.fingerprint, None

    def __reduce__(self):
        return Endless, (self._path,)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Record:
        while index == 2:
            time.sleep(0.1)
        return self._table[index]

    def caption(self, index: int) -> str:
        return self._table.caption(index)

    def where(self, index: int) -> str:
        return self._table.where(index)

    def labels(self) -> np.ndarray:
        return self._table.labels()
