"""Which layers and units of an image tower a trigger drives (InverTune, arXiv 2506.12411)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from cleanclip_jax.measure.gaussians import best_cut

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
    ordered = np.sort(moved, axis=None)
    # Where all are equal, there is no upper cluster.
    return (moved >= ordered[best_cut(ordered)]) & (moved > ordered[0])
