"""A figure over several seeds: mean, standard deviation and the 95 % interval of the mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

# What the interval of each kind is, in words for a table's caption.
SEEDS = "mean and Student's 95 % interval over the seeds, cut at 0 and 100"
PICTURES = "one run with Wilson's 95 % interval over the pictures"


@dataclass(frozen=True)
class Spread:
    """A share (a fraction) over `n` runs.

    Attributes:
      deviation: standard deviation between the runs; None of one.
      interval: of the mean over seeds; of one run that of its pictures, None where unknown.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    n: int

    def __str__(self) -> str:
        """'55.4 [53.2, 57.6]', in percent."""
        low_high = "" if self.interval is None else " [{:.1f}, {:.1f}]".format(*self.percent)
        return f"{100 * self.mean:.1f}{low_high}"

    @property
    def percent(self) -> tuple[float, float]:
        """The interval in percent."""
        assert self.interval is not None
        return 100 * self.interval[0], 100 * self.interval[1]

    def to_json(self) -> dict[str, Any]:
        """All of it, as written into sweep.json."""
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "interval": self.interval,
            "of": "seeds" if self.n > 1 else "pictures",
            "n": self.n,
        }


def spread(values: Sequence[float | None], own: Sequence[float] | None = None) -> Spread | None:
    """The spread of a figure over runs that differ by their seed; None where none has it.

    The interval is mean ± t · s / √n, t being Student's 97.5 % point for n - 1 degrees of freedom
    (4.30 for three seeds). It takes the seeds' values as normal, which shares near 0 or 1 are not.

    Args:
      own: the interval of one run, where there is one only.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    middle, n = mean(known), len(known)
    if n == 1:
        return Spread(middle, None, None if own is None else (own[0], own[1]), 1)
    # Deferred: half a second, for which no command's --help should wait.
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * stdev(known) / math.sqrt(n)
    return Spread(middle, stdev(known), (max(0.0, middle - half), min(1.0, middle + half)), n)
