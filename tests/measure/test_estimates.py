"""Intervals against scipy's, and against what they promise."""

import numpy as np
import pytest
from scipy.stats import binomtest

from cleanclip_jax.measure.estimates import median_rank, share, wilson


@pytest.mark.parametrize(
    ("count", "of"), [(0, 7), (7, 7), (1, 2), (389, 400), (3, 50_000), (20, 355)]
)
def test_wilson_is_scipys(count, of):
    wanted = binomtest(count, of).proportion_ci(0.95, method="wilson")
    interval = wilson(count, of)
    assert interval == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert interval is not None and 0 <= interval[0] <= count / of <= interval[1] <= 1


def test_nothing_has_no_interval():
    assert wilson(0, 0) is None
    figure = share(np.zeros(0, bool), "x")
    assert figure.value is None and figure.to_json()["interval"] is None


def test_ranks_count_from_one():
    median = median_rank(np.array([0, 0, 4, 9]), "x")
    assert median.value == 3 and median.of == 4 and median.to_json()["unit"] == "rank"
    assert median_rank(np.zeros(0, int), "x").value is None


def test_the_medians_interval_holds_it_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    population = rng.integers(0, 10_000, 100_001)
    middle, hits = np.median(population) + 1, 0
    for _ in range(400):
        interval = median_rank(rng.choice(population, 150), "x").interval
        assert interval is not None
        hits += interval[0] <= middle <= interval[1]
    assert 0.92 < hits / 400 < 0.99
