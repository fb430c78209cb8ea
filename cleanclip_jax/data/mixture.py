"""Several sources as one, each weighted."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest
from typing import Any

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.data.sources import open_source, options_of
from cleanclip_jax.data.subset import Subset
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import number
from cleanclip_jax.record import Record, Source, fingerprint_of
from cleanclip_jax.views.decode import BadRecord

WEIGHT = number(1, "how many times each of a source's pairs comes in an epoch", 0, 1000)
MOST_PAIRS = 2**31  # of a mixture; Grain's shuffle counts to 2**32


def open_mixture(sources: Mapping[str, Any]) -> Source:
    """Several sources as one (Mixture).

    Args:
      sources: name → the config of a source and its `weight`, how many times each of its pairs
        comes in an epoch (default: 1; a fraction chooses that share of them, once for all).
    """
    opened = {}
    for name, config in sources.items():
        try:
            options = options_of(config)
            weight = WEIGHT.read("weight", options.pop("weight", 1))
            opened[name] = open_source(options), weight
        except UserError as error:
            raise UserError(f"data: mixture: {name}: {error}") from error
    return mix(opened)


def mix(sources: Mapping[str, tuple[Source, float]]) -> Source:
    """A `Mixture`; where sources are filtered, that of the whole ones, filtered in the same way."""
    whole = Mixture(
        {name: (source.unfiltered(), times) for name, (source, times) in sources.items()}
    )
    if all(source.unfiltered() is source for source, _ in sources.values()):
        return whole
    return Subset(whole, whole.filtered({name: source for name, (source, _) in sources.items()}))


class Mixture(Source):
    """Sources one after the other, each as often as its weight says.

    A pair of weight 2 comes twice in an epoch. Of a weight's fraction, the share of the pairs that
    it names comes once more: always the same ones, picked by a seed that the sources' order gives.

    Args:
      sources: name → source and weight; ordered by name, whatever the mapping's order.
    """

    def __init__(self, sources: Mapping[str, tuple[Source, float]]):
        self._arguments = (dict(sources),)
        self._names = sorted(sources)
        self._sources = [sources[name][0] for name in self._names]
        weights = [float(sources[name][1]) for name in self._names]
        self._picked = [
            _fraction(len(source), weight, seed)
            for seed, (source, weight) in enumerate(zip(self._sources, weights, strict=True))
        ]
        self._times = [int(weight) for weight in weights]
        parts = zip(self._sources, self._times, self._picked, strict=True)
        self._ends = [*accumulate(times * len(s) + len(picked) for s, times, picked in parts)]
        if not self._ends or not self._ends[-1]:
            raise UserError("data: mixture: no pair is left; give sources, and larger weights.")
        if len(self) > MOST_PAIRS:
            raise UserError(f"data: mixture: {len(self):,} pairs an epoch; give smaller weights.")
        self.class_names = self._common_classes()
        self.fingerprint = fingerprint_of(
            mixture=[source.fingerprint for source in self._sources], weights=weights
        )

    def __reduce__(self):
        return Mixture, self._arguments

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        part, row = self._locate(index)
        try:
            record = self._sources[part][row]
        except BadRecord as error:
            raise BadRecord(f"{self._names[part]}: {error}") from error
        return replace(record, where=self.where(index))

    def caption(self, index: int) -> str:
        part, row = self._locate(index)
        return self._sources[part].caption(row)

    def all_captions(self, index: int) -> Sequence[str]:
        part, row = self._locate(index)
        return self._sources[part].all_captions(row)

    def has_lists(self) -> bool:
        return any(source.has_lists() for source in self._sources)

    def where(self, index: int) -> str:
        part, row = self._locate(index)
        return f"{self._names[part]}: {self._sources[part].where(row)}"

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._spread([source.labels() for source in self._sources])

    def filtered(self, sources: Mapping[str, Source]) -> Int64[np.ndarray, " m"]:
        """The ids of the pairs that are in `sources`: the same ones by name, filtered."""
        pairs = zip(self._names, self._sources, strict=True)
        columns = [np.isin(whole.ids(), sources[name].ids()) for name, whole in pairs]
        return np.flatnonzero(self._spread(columns))

    def _spread(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """A column of each source, as a column of the mixture."""
        parts = zip(columns, self._times, self._picked, strict=True)
        return np.concatenate([x for c, n, picked in parts for x in (np.tile(c, n), c[picked])])

    def _locate(self, index: int) -> tuple[int, int]:
        """The source's number, and the pair's index in it."""
        part = bisect_right(self._ends, index)
        row = index - (self._ends[part - 1] if part else 0)
        count = len(self._sources[part])
        whole = self._times[part] * count
        return part, row % count if row < whole else int(self._picked[part][row - whole])

    def _common_classes(self) -> tuple[str, ...] | None:
        common = first = None
        for name, source in zip(self._names, self._sources, strict=True):
            if source.class_names is None:
                continue
            if common is None:
                common, first = source.class_names, name
            elif source.class_names != common:
                pairs = zip_longest(common, source.class_names, fillvalue="none")
                number, (one, other) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
                raise UserError(
                    f"data: mixture: the classes of {first} and {name} differ: class {number} is "
                    f"{one!r} and {other!r}; give both the same classes, or neither."
                )
        return common


def _fraction(count: int, weight: float, seed: int) -> Int64[np.ndarray, " m"]:
    """The pairs that come once more for the weight's fraction, in order."""
    share = round((weight - int(weight)) * count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:share])
