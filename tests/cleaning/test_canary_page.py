"""The page of a cleaning, in words."""

from cleanclip_jax.cleaning.canary_page import as_json, verdict
from cleanclip_jax.cleaning.choice import Canary, Point

POINT = Point("cleanclip", 2e-3, "run", 0.456, {}, {"blended": Canary(0.01, 0.02, 0.0, 0.05)})


def test_the_verdict_names_the_point_or_says_that_there_is_none():
    results = {"useful_by": "clean accuracy", "before": 0.4, "after": 0.456, "delivered": "out.pt"}
    words = verdict({**results, "chosen": as_json(POINT), "nearest": as_json(POINT)})
    assert "cleanclip at a rate of 0.002" in words and "40.0 % before and 45.6 % after" in words
    words = verdict({**results, "chosen": None, "nearest": as_json(POINT)})
    assert words.startswith("Nothing is delivered as clean") and "blended 1.0 %" in words


def test_a_point_as_json_says_whether_it_passes():
    point = as_json(POINT)
    assert point is not None and point["passes"] is True
    assert point["canaries"]["blended"]["limit"] == 0.05
