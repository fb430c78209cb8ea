"""Means over seeds and their intervals, against Student's table."""

import pytest

from cleanclip_jax.report.tables import spread


def test_three_seeds_have_students_interval():
    three = spread([0.5, 0.6, 0.7])
    assert three is not None and three.n == 3
    assert three.mean == pytest.approx(0.6) and three.deviation == pytest.approx(0.1)
    # 4.3027 x 0.1 / sqrt 3
    assert three.interval == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-5)
    assert str(three) == "60.0 [35.2, 84.8]"


def test_intervals_stay_between_0_and_1():
    low, high, same = spread([0.0, 0.01, 0.05]), spread([1.0, 0.9]), spread([0.25, 0.25])
    assert low is not None and low.interval is not None and low.interval[0] == 0.0
    assert high is not None and high.interval is not None and high.interval[1] == 1.0
    assert same is not None and same.interval == (0.25, 0.25)


def test_one_run_has_the_interval_of_its_pictures():
    one = spread([0.5], [0.4, 0.6])
    assert one is not None and one.deviation is None and str(one) == "50.0 [40.0, 60.0]"
    assert one.of == "pictures"
    assert str(spread([0.5])) == "50.0"


def test_what_was_not_measured_counts_for_nothing():
    assert spread([]) is None and spread([None]) is None and spread([float("nan")]) is None
    two = spread([None, 0.25, 0.75])
    assert two is not None and two.n == 2 and two.mean == 0.5
