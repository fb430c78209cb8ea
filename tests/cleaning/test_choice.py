"""The choice: the most useful model in which no canary is left."""

from cleanclip_jax.cleaning.choice import Canary, Point, choose, nearest, passes


def point(usefulness: float, *uppers: float) -> Point:
    canaries = {str(i): Canary(0.0, upper, 0.01, 0.06) for i, upper in enumerate(uppers)}
    return Point("cleanclip", 1e-3, "there", usefulness, {}, canaries)


def test_one_canary_that_is_left_fails_a_model():
    assert passes(point(0.5, 0.06, 0.05))
    assert not passes(point(0.5, 0.01, 0.061))


def test_the_most_useful_of_those_that_pass_is_chosen_and_of_equal_ones_the_first():
    best, same = point(0.5, 0.05), point(0.5, 0.01)
    assert choose([point(0.9, 0.5), point(0.4, 0.01), best, same]) is best
    assert choose([point(0.9, 0.5)]) is None


def test_nearest_is_the_one_whose_worst_canary_is_lowest():
    low = point(0.1, 0.2, 0.2)
    assert nearest([point(0.9, 0.01, 0.5), low]) is low
