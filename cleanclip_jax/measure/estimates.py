"""What a measured number is: its value, what it was counted over, what it means, how sure it is."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

# The normal distribution's 97.5 % point: intervals are of 95 %.
Z = 1.959963984540054
Interval = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """`count` of `of` pictures, captions or queries; no value where nothing counts."""

    definition: str
    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The share, a fraction."""
        return self.count / self.of if self.of else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as written into evaluation.json."""
        interval = wilson(self.count, self.of)
        return {"value": self.value, "interval": interval, "unit": "share", **asdict(self)}


@dataclass(frozen=True)
class MedianRank:
    """The middle of ranks that count from 1, the best."""

    definition: str
    value: float | None
    interval: Interval | None
    of: int

    def to_json(self) -> dict[str, Any]:
        """All of it, as written into evaluation.json."""
        return {**asdict(self), "unit": "rank"}


Measured = dict[str, Figure | MedianRank]


def wilson(count: int, of: int) -> Interval | None:
    """The 95 % interval of a share (Wilson 1927); None for a share of nothing.

    It covers which pictures happened to be measured, not another run's seed.
    """
    if not of:
        return None
    # Deferred: a second, for which no command's --help should wait.
    from scipy.stats import binomtest

    interval = binomtest(count, of).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def share(hits: Bool[np.ndarray, " n"], definition: str) -> Figure:
    """A figure from which of the counted things are hits."""
    return Figure(definition, int(hits.sum()), len(hits))


def median_rank(ranks: Int[np.ndarray, " n"], definition: str) -> MedianRank:
    """The median of ranks given from 0, counted from 1, with its 95 % interval.

    The interval's ends are the order statistics whose numbers a median lies between in 95 of 100
    samples (binomial distribution, by its normal approximation).
    """
    n = len(ranks)
    if not n:
        return MedianRank(definition, None, None, 0)
    half = Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    order = np.sort(ranks) + 1
    ends = float(order[low]), float(order[high])
    return MedianRank(definition, float(np.median(order)), ends, n)
