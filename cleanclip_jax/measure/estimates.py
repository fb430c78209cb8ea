"""What a measured number is: value, count, meaning, interval; CA and ASR at each top k."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

# The normal distribution's 97.5 % point: intervals are of 95 %.
Z = 1.959963984540054
Interval = tuple[float, float]
TOPS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Figure:
    """A share, `count` of `of` pictures, captions or queries; the median of `of` ranks from 1; or
    another number, of as many.

    Attributes:
      value: a fraction, a rank or a number; None where nothing counts, as `interval`, of 95 %.
      unit: share | rank | number.
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


def clean_figures(
    labels: Int[np.ndarray, " n"],
    ranks: Int[np.ndarray, "n 2"],
    target: int | None,
    classes: int,
    of: str = "",
) -> Figures:
    """CA, and how often clean pictures land on the target.

    Args:
      labels: true classes.
      ranks: of the label and of the target for the clean pictures (0 is the prediction).
      target: the attack's class, or None.
      classes: how many there are; a top k that can't miss is left out.
      of: ends the target's figures: ".PART" of an attack of several parts.
    """
    figures = _at_tops("ca", ranks[:, 0], "clean pictures whose true class", classes)
    if target is not None:
        what = "clean pictures of other classes for which the target"
        figures |= _at_tops(f"clean_target_rate{of}", ranks[labels != target, 1], what, classes)
    return figures


def attack_figures(
    labels: Int[np.ndarray, " n"],
    ranks: Int[np.ndarray, "n 2"],
    target: int,
    classes: int,
    of: str = "",
) -> Figures:
    """ASR on pictures of other classes, on all, and the poisoned accuracy.

    docs/fidelity.md: "poisoned accuracy", "target class left out".

    Args:
      ranks: of the label and of the target for the triggered pictures.
      of: ends the figures' names: ".PART" of an attack of several parts.
    """
    others = "triggered pictures of other classes for which the target"
    every = "triggered pictures, those of the target class too, for which the target"
    return {
        **_at_tops(f"asr{of}", ranks[labels != target, 1], others, classes),
        **_at_tops(f"asr_all{of}", ranks[:, 1], every, classes),
        **_at_tops(f"pa{of}", ranks[:, 0], "triggered pictures whose true class", classes),
    }


def _at_tops(name: str, ranks: Int[np.ndarray, " n"], what: str, classes: int) -> Figures:
    """The figure, and as `_top3` and so on what is among the first few."""
    figures = {name: share(ranks < 1, f"{what} comes first")}
    for k in TOPS[1:]:
        if k < classes:
            figures[f"{name}_top{k}"] = share(ranks < k, f"{what} is among the top {k}")
    return figures
