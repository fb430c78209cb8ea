"""Two Gaussians in one dimension, fitted without random numbers."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

EXTRA = 1e-6  # added to variances
TOLERANCE, ROUNDS = 1e-3, 100


class Mixture(NamedTuple):
    """Two components, the one with the larger mean last.

    Attributes:
      probability: of the last component for each value.
      rounds: of EM.
      log_likelihood: the mean over the values before the last update.
    """

    weights: Float64[np.ndarray, " 2"]
    means: Float64[np.ndarray, " 2"]
    variances: Float64[np.ndarray, " 2"]
    probability: Float64[np.ndarray, " n"]
    rounds: int
    log_likelihood: float


def best_cut(ordered: Float64[np.ndarray, " n"]) -> int:
    """How many of the sorted values are below the cut into two of the least squares."""
    count = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    above = ordered.sum() - below
    # The sums of squares are least where those of the means, by their counts, are largest.
    return int((below**2 / count + above**2 / (len(ordered) - count)).argmax()) + 1


def two_gaussians(values: Float[np.ndarray, " n"]) -> Mixture:
    """Fits two Gaussians to two values or more, as scikit-learn's GaussianMixture in float64.

    It begins with the best cut in two, which scikit-learn looks for by k-means from random numbers.
    """
    x = np.asarray(values, np.float64)
    centred = x - x.mean()  # sums of squares lose no digits to a common part
    cut = best_cut(np.sort(centred))
    high = np.zeros(len(x))
    high[np.argsort(centred, kind="stable")[cut:]] = 1.0
    weights, means, variances = _update(x, high)
    likelihood, moved, rounds = -np.inf, np.inf, 0
    while moved >= TOLERANCE and rounds < ROUNDS:
        before, rounds = likelihood, rounds + 1
        probability, likelihood = _expect(x, weights, means, variances)
        weights, means, variances = _update(x, probability)
        moved = abs(likelihood - before)
    if means[0] > means[1]:
        weights, means, variances = weights[::-1], means[::-1], variances[::-1]
    probability, _ = _expect(x, weights, means, variances)
    return Mixture(weights, means, variances, probability, rounds, likelihood)


def _expect(
    x: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, float]:
    squares = (x[:, None] - means) ** 2 / variances
    logs = np.log(weights) - (np.log(2 * np.pi * variances) + squares) / 2
    total = np.logaddexp(*logs.T)
    return np.exp(logs[:, 1] - total), float(total.mean())


def _update(x: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shares = np.stack([1 - high, high])
    sizes = shares.sum(1) + 10 * np.finfo(np.float64).eps
    means = shares @ x / sizes
    variances = (shares * (x - means[:, None]) ** 2).sum(1) / sizes + EXTRA
    return sizes / sizes.sum(), means, variances
