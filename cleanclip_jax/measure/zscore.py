"""How much closer together a trigger moves pictures: the backdoor z-score (Carlini & Terzis)."""

import numpy as np
from jaxtyping import Float32

from cleanclip_jax.measure.estimates import Figure, Figures
from cleanclip_jax.measure.metrics import Seen
from cleanclip_jax.measure.ranks import unit

PICTURES = 500  # that are compared with each other, evenly from the set


def zscore(seen: Seen) -> Figures:
    """Cosines among triggered pictures against those among the same pictures without the trigger.

    The z-score is the difference of their means over the deviation among clean pictures, each pair
    of pictures counted once. DECREE's code divides by the variance and counts each picture with
    itself: `zscore_by_variance` is that quotient, of which it calls more than 2.5 a backdoor.
    """
    if seen.triggered is None:
        return {}
    rows = np.unique(np.linspace(0, len(seen.clean) - 1, PICTURES).round().astype(int))
    if len(rows) < 3:
        return {}
    clean, triggered = (cosines(features[rows]) for features in (seen.clean, seen.triggered))
    once = np.triu_indices(len(rows), 1)
    apart, together = clean[once], triggered[once]
    figures = {
        "": (together.mean() - apart.mean()) / apart.std(),
        "by_variance": (triggered.mean() - clean.mean()) / clean.var(),
        "clean_cosine": apart.mean(),
        "triggered_cosine": together.mean(),
    }
    meanings = {
        "": "mean cosine among triggered less that among clean pictures, over its deviation there",
        "by_variance": "the same as DECREE's code has it: over the variance, self-pairs counted",
        "clean_cosine": "mean cosine of two clean pictures",
        "triggered_cosine": "mean cosine of two triggered pictures",
    }
    return {
        name: Figure(meanings[name], float(value), None, len(rows), "number")
        for name, value in figures.items()
    }


def cosines(features: Float32[np.ndarray, "n d"]) -> np.ndarray:
    """All pairs' cosines [n, n], in float64."""
    rows = unit(features).astype(np.float64)
    return rows @ rows.T
