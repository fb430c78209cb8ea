"""Which layers and units of an image tower a trigger drives (InverTune, arXiv 2506.12411)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

Means = Mapping[str, Float[np.ndarray, "..."]]  # a layer's mean activations, by its name


def impacts(clean: Means, triggered: Means) -> dict[str, float]:
    """How far a trigger moves each layer's mean activations, as a share of their norm."""
    return {
        name: float(np.linalg.norm(x - triggered[name]) / max(np.linalg.norm(x), 1e-12))
        for name, x in clean.items()
    }


def largest(impact: Mapping[str, float], count: int) -> tuple[str, ...]:
    """The layers of the largest impacts, in the tower's order."""
    chosen = sorted(impact, key=lambda name: impact[name], reverse=True)[:count]
    return tuple(name for name in impact if name in chosen)


def critical_units(
    clean: Float[np.ndarray, "..."], triggered: Float[np.ndarray, "..."]
) -> Bool[np.ndarray, "..."]:
    """The units of a layer whose mean activations a trigger moves much: the upper of two clusters.

    By the exact cut of one dimension, where the original runs k-means from random centres
    ("exact cut" in docs/fidelity.md).
    """
    moved = np.abs(np.asarray(clean, np.float64) - np.asarray(triggered, np.float64))
    return moved >= two_means_cut(moved.ravel())


def two_means_cut(values: Float[np.ndarray, " n"]) -> float:
    """The least value of the upper cluster, of the two that 2-means in one dimension is best with.

    Infinity where all values are equal: then there is no upper cluster.
    """
    ordered = np.sort(values)
    count, total = np.arange(1, len(ordered)), np.cumsum(ordered)
    # What the two means explain of the squares: the rest is within the clusters.
    lower, upper = total[:-1], total[-1] - total[:-1]
    explained = lower**2 / count + upper**2 / (len(ordered) - count)
    explained[ordered[1:] == ordered[:-1]] = -np.inf
    if not len(explained) or not np.isfinite(explained.max()):
        return float("inf")
    return float(ordered[1 + explained.argmax()])
