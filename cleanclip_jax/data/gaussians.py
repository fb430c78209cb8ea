"""Two Gaussians fitted to numbers, without random ones: SafeCLIP's split of similarities.

As scikit-learn's GaussianMixture with two components (expectation maximisation to a mean
log-likelihood that moves by less than 1e-3), but for its start: the best cut of the sorted values
into two, which k-means looks for.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from cleanclip_jax.errors import UserError

_TOLERANCE, _ROUNDS, _LEAST_VARIANCE = 1e-3, 100, 1e-6


@dataclass(frozen=True)
class TwoGaussians:
    """A mixture; its components are in the order of their means."""

    weights: Float64[np.ndarray, " 2"]
    means: Float64[np.ndarray, " 2"]
    variances: Float64[np.ndarray, " 2"]
    rounds: int

    def upper(self, values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The probability of each value to be of the component with the larger mean.

        It need not rise with the value: a wider component has both of the tails.
        """
        logs = _log_densities(np.asarray(values, np.float64), self)
        return np.exp(logs[1] - np.logaddexp(*logs))


def fit_two_gaussians(values: Float[np.ndarray, " n"], cut: float | None = None) -> TwoGaussians:
    """The mixture of maximal likelihood that a cut leads to.

    Args:
      cut: the least value of the upper part at the start; None: the best cut's.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        raise UserError(
            f"{len(values)} values, all of them equal: a mixture of two needs different ones"
        )
    cut = two_means_cut(values) if cut is None else cut
    fitted = _maximised(values, np.stack([values < cut, values >= cut]).astype(np.float64), 1)
    before = -np.inf
    for rounds in range(1, _ROUNDS + 1):
        logs = _log_densities(values, fitted)
        total = np.logaddexp(*logs)
        fitted = _maximised(values, np.exp(logs - total), rounds)
        if abs(total.mean() - before) < _TOLERANCE:
            break
        before = total.mean()
    order = np.argsort(fitted.means)
    parts = (part[order] for part in (fitted.weights, fitted.means, fitted.variances))
    return TwoGaussians(*parts, rounds=fitted.rounds)


def two_means_cut(values: Float64[np.ndarray, " n"]) -> float:
    """The least value of the upper part, where squares about the two parts' means are least."""
    rising = np.sort(values)
    count = np.arange(1, len(rising))
    lower, total = np.cumsum(rising)[:-1], rising.sum()
    between = lower**2 / count + (total - lower) ** 2 / (len(rising) - count)
    between[rising[1:] == rising[:-1]] = -np.inf  # equal values stay together
    return float(rising[int(between.argmax()) + 1])


def _maximised(
    values: Float64[np.ndarray, " n"], shares: Float64[np.ndarray, "2 n"], rounds: int
) -> TwoGaussians:
    counts = shares.sum(1) + 10 * np.finfo(np.float64).eps
    means = shares @ values / counts
    variances = (shares * (values - means[:, None]) ** 2).sum(1) / counts + _LEAST_VARIANCE
    return TwoGaussians(counts / counts.sum(), means, variances, rounds)


def _log_densities(
    values: Float64[np.ndarray, " n"], fitted: TwoGaussians
) -> Float64[np.ndarray, "2 n"]:
    """Logarithms of each component's weight times its density."""
    variances = fitted.variances[:, None]
    squares = (values - fitted.means[:, None]) ** 2 / variances
    return np.log(fitted.weights)[:, None] - (squares + np.log(2 * np.pi * variances)) / 2
