"""Numbers of a course of attack success, from their definitions."""

import pytest

from cleanclip_jax.measure.persistence import area, reactivated, rebound, wakes_at


def test_rebound_is_the_highest_above_the_beginning_and_never_below_nothing():
    assert rebound({0: 0.1, 1: 0.5, 2: 0.3}) == pytest.approx(0.4)
    assert rebound({2: 0.0, 0: 0.6, 1: 0.2}) == 0  # whatever the order of its points


def test_area_is_the_mean_over_the_length_whatever_the_spaces():
    assert area({0: 0.4, 1: 0.4, 5: 0.4, 20: 0.4}) == pytest.approx(0.4)
    assert area({0: 0.0, 1: 1.0, 5: 1.0}) == pytest.approx((0.5 + 4) / 5)
    assert area({0: 0.3}) == 0.3


def test_a_path_wakes_where_half_of_the_poisoned_success_is_reached():
    path = {0: 0.0, 0.25: 0.39, 0.5: 0.41, 0.75: 0.2, 1: 0.8}
    assert wakes_at(path) == 0.5
    assert wakes_at(path, 0.1) == 0.25
    assert wakes_at({0: 0.0, 1: 0.0}) is None  # nothing was there to be woken


def test_what_any_model_shows_is_no_reactivation():
    assert reactivated(0.9, 0.2, 0.3) == pytest.approx(0.6)
    assert reactivated(0.9, 0.9, 0.1) == 0
    assert reactivated(0.9, 0.2, None) == pytest.approx(0.7)
