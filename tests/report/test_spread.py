"""Means over seeds and their intervals, against Student's table."""

import pytest

from cleanclip_jax.report.spread import spread


def test_three_seeds_have_students_interval():
    found = spread([0.5, 0.6, 0.7])
    assert found is not None and found.n == 3
    assert found.mean == pytest.approx(0.6) and found.deviation == pytest.approx(0.1)
    # 4.3027 x 0.1 / sqrt 3
    assert found.interval == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-5)
    assert str(found) == "60.0 [35.2, 84.8]"


def test_shares_stay_between_none_and_all():
    found = spread([0.0, 0.01, 0.05])
    assert found is not None and found.interval is not None and found.interval[0] == 0.0
    high = spread([1.0, 0.9])
    assert high is not None and high.interval is not None and high.interval[1] == 1.0


def test_one_run_keeps_its_own_interval():
    found = spread([0.5], [0.4, 0.6])
    assert found is not None and found.deviation is None and str(found) == "50.0 [40.0, 60.0]"
    assert found.to_json()["of"] == "pictures"
    assert str(spread([0.5])) == "50.0"


def test_what_was_not_measured_counts_for_nothing():
    assert spread([]) is None and spread([None]) is None
    found = spread([None, 0.25, 0.75])
    assert found is not None and found.n == 2 and found.mean == 0.5
