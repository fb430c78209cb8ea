"""FLOPs of a pair."""

import pytest

from cleanclip_jax.models.clip import build
from cleanclip_jax.run.flops import flops_per_pair
from cleanclip_jax.run.state import Objective


@pytest.mark.parametrize(
    ("variant", "giga"),
    [
        pytest.param("RN50", 17.5, marks=pytest.mark.slow),
        ("ViT-B/32", 14.8),
        pytest.param("ViT-B/16", 41.1, marks=pytest.mark.faults),
    ],
)
def test_flops_of_a_pair(variant, giga):
    """Three forwards; the published counts are of all queries in RN50's attention pool."""
    plain = flops_per_pair(build(variant), Objective({"cross_modal": 1.0}))
    assert plain / 3e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize("variant", [pytest.param("RN-32px", marks=pytest.mark.slow), "ViT-32px/8"])
def test_flops_follow_the_objective_and_not_how_it_is_computed(variant):
    model = build(variant)
    plain = flops_per_pair(model, Objective({"cross_modal": 1.0}))
    both = flops_per_pair(model, Objective({"cross_modal": 1.0, "in_modal": 1.0}))
    assert both == 2 * plain
    looped = build(variant, scan=True, remat=True)
    assert flops_per_pair(looped, Objective({"cross_modal": 1.0})) == plain
    probe = flops_per_pair(model, Objective({"classification": 1.0}, trainable="head"))
    assert probe < plain / 3
