"""Figures of runs as tables: their values, and the mean and interval of several runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import pandas as pd

FIGURES = (
    *("ca", "asr", "asr_all", "pa", "clean_target_rate", "floor_asr", "control_ca"),
    *("retrieval.image_to_text_r1", "retrieval.text_to_image_r1", "retrieval.backdoor_r1"),
)
# What the interval of each kind is, in words for a table's caption.
SEEDS = "mean and Student's 95 % interval over the seeds, cut at 0 and 100"
PICTURES = "one run with Wilson's 95 % interval over the pictures"

Row = dict[str, Any]
Frame = Any  # a pandas.DataFrame; pyright doesn't follow what is computed with one


@dataclass(frozen=True)
class Spread:
    """A share (a fraction) over `n` runs.

    Attributes:
      deviation: standard deviation between the runs; None of one.
      interval: of the mean over `seeds`; of one run that of its `pictures`, None where unknown.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    of: str
    n: int

    def __str__(self) -> str:
        """'55.4 [53.2, 57.6]', in percent."""
        ends = "" if self.interval is None else " [{:.1f}, {:.1f}]"
        return f"{100 * self.mean:.1f}" + ends.format(*(100 * end for end in self.interval or ()))


def spread(
    values: Sequence[float | None], interval: Sequence[float] | None = None
) -> Spread | None:
    """The spread of a figure over runs that differ by their seed; None where none has it.

    The interval is mean ± t · s / √n, t being Student's 97.5 % point for n - 1 degrees of freedom
    (4.30 for three seeds). It takes the seeds' values as normal, which shares near 0 or 1 are not.

    Args:
      interval: of one run, where there is one only.
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return None
    middle, n = mean(known), len(known)
    if n == 1:
        ends = None if interval is None else (interval[0], interval[1])
        return Spread(middle, None, ends, "pictures", 1)
    deviation = stdev(known)
    # Deferred: a second, for which no command's --help should wait.
    from scipy.stats import t

    scale = deviation / math.sqrt(n)
    low, high = t.interval(0.95, n - 1, middle, scale) if scale else (middle, middle)
    ends = max(0.0, float(low)), min(1.0, float(high))
    return Spread(middle, deviation, ends, "seeds", n)


def values_of(figures: Mapping[str, Mapping[str, Any]]) -> Row:
    """A sweep's row of what evaluation.json says: values, and the intervals of each."""
    known = {key: figures[key] for key in FIGURES if key in figures}
    return {
        **{key: figure["value"] for key, figure in known.items()},
        "intervals": {key: figure["interval"] for key, figure in known.items()},
    }


def table_of(rows: Sequence[Row]) -> Frame:
    """Rows as a table: intervals as ca_low, ca_high and so on, without what no cell can hold."""
    flat = []
    for row in rows:
        flat.append({key: row[key] for key in row if key not in ("intervals", "course")})
        for figure, interval in row.get("intervals", {}).items():
            flat[-1][f"{figure}_low"], flat[-1][f"{figure}_high"] = interval or (None, None)
    return pd.DataFrame(flat)


def over_rows(table: Frame, figure: str) -> Spread | None:
    """A figure's spread over a table's rows, with the interval of one that is alone."""
    if figure not in table:
        return None
    interval = None
    if len(table) == 1 and f"{figure}_low" in table:
        low, high = table[[f"{figure}_low", f"{figure}_high"]].iloc[0]
        interval = None if pd.isna(low) else (float(low), float(high))
    return spread(table[figure].astype(float).tolist(), interval)
