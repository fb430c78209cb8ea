"""How well scores tell poisons from clean pairs: AUROC, true at few false positives, recall."""

from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float

from cleanclip_jax.measure.estimates import Figure, Figures, Interval, Z, share

FALSE_POSITIVES = (0.05, 0.01, 0.001)
DROPPED = (0.01, 0.05, 0.1)


def detection_figures(scores: Float[np.ndarray, " n"], poisoned: Bool[np.ndarray, " n"]) -> Figures:
    """The figures of one detector; pairs without a score (NaN) are in none of them.

    Args:
      scores: higher is more suspicious.
      poisoned: the positives.
    """
    scored = ~np.isnan(scores)
    poisons, clean = scores[scored & poisoned], scores[scored & ~poisoned]
    figures = {"auroc": auroc_figure(poisons, clean)}
    for limit in FALSE_POSITIVES:
        figures[f"tpr_at_fpr_{100 * limit:g}"] = tpr_at_fpr(poisons, clean, limit)
    for part in DROPPED:
        figures[f"recall_at_{100 * part:g}"] = recall(poisons, clean, part)
    return figures


def auroc(
    poisons: Float[np.ndarray, " p"], clean: Float[np.ndarray, " c"]
) -> tuple[float, Interval | None]:
    """How often a poison has the higher score of a poison and a clean pair; a tie is one half.

    With DeLong's interval of 95 % (1988; by midranks, Sun and Xu 2014): None where it has none, for
    one poison, or where all poisons lie on one side.
    """
    p, c = len(poisons), len(clean)
    ranks = _midranks(np.concatenate([poisons, clean]))
    above = (ranks[:p] - _midranks(poisons)) / c  # the share of clean pairs below each poison
    below = 1 - (ranks[p:] - _midranks(clean)) / p
    value = float(above.mean())
    if min(p, c) < 2:
        return value, None
    half = Z * np.sqrt(above.var(ddof=1) / p + below.var(ddof=1) / c)
    return value, (max(0.0, value - half), min(1.0, value + half)) if half else None


def _midranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def auroc_figure(
    poisons: Float[np.ndarray, " p"],
    clean: Float[np.ndarray, " c"],
    what: str = "poisons",
    others: str = "clean pairs",
) -> Figure:
    """The AUROC of positives, called `what`, against `others`."""
    meaning = f"{what} above {others}: AUROC, {len(poisons)} against {len(clean)}"
    if not len(poisons) or not len(clean):
        return Figure(meaning, None, None, len(poisons))
    value, interval = auroc(poisons, clean)
    return Figure(meaning, value, interval, len(poisons))


def tpr_at_fpr(
    poisons: Float[np.ndarray, " p"],
    clean: Float[np.ndarray, " c"],
    limit: float,
    what: str = "pairs",
) -> Figure:
    """Poisons at or above the lowest score which no more than `limit` of the clean pairs reach.

    Pairs of the same score are taken in full, against the detector.
    """
    allowed = int(Fraction(repr(limit)) * len(clean))
    # Above the first score that is too many: with it all of its equals.
    falling = np.sort(clean)[::-1]
    above = falling[allowed] if allowed < len(clean) else -np.inf
    false = int((clean > above).sum())
    what = (
        f"poisoned {what} of a higher score than all but {100 * limit:g} % of the clean ones "
        f"({false} of {len(clean)})"
    )
    return share(poisons > above, what)


def recall(
    poisons: Float[np.ndarray, " p"], clean: Float[np.ndarray, " c"], dropped: float
) -> Figure:
    """Poisons among so many of the highest scores; of equal ones the clean pairs come first."""
    count = int(Fraction(repr(dropped)) * (len(poisons) + len(clean)))
    scores = np.concatenate([clean, poisons])
    order = np.lexsort((np.arange(len(scores)), -scores))[:count]
    hits = np.zeros(len(scores), bool)
    hits[order] = True
    return share(
        hits[len(clean) :],
        f"poisons among the {100 * dropped:g} % of highest scores ({count} pairs)",
    )
