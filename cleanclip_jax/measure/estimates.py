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
    """A share, `count` of `of` pictures, captions or queries; or the median of `of` ranks from 1.

    Attributes:
      value: a fraction, or a rank; None where nothing counts, as `interval`, of 95 %.
      unit: share | rank.
      count: of a share alone.
    """

    definition: str
    value: float | None
    interval: Interval | None
    of: int
    unit: str = "share"
    count: int | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it, as written into evaluation.json."""
        return {k: v for k, v in asdict(self).items() if k != "count" or v is not None}


Figures = dict[str, Figure]


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
    count, of = int(hits.sum()), len(hits)
    return Figure(definition, count / of if of else None, wilson(count, of), of, count=count)


def median_rank(ranks: Int[np.ndarray, " n"], definition: str) -> Figure:
    """The median of ranks given from 0, counted from 1, with its 95 % interval.

    The interval's ends are the order statistics whose numbers a median lies between in 95 of 100
    samples (binomial distribution, by its normal approximation).
    """
    n = len(ranks)
    if not n:
        return Figure(definition, None, None, 0, "rank")
    half = Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    order = np.sort(ranks) + 1
    ends = float(order[low]), float(order[high])
    return Figure(definition, float(np.median(order)), ends, n, "rank")
