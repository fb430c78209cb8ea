"""The pictures that a trigger changes most."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.features import Reading, Shown, embed
from cleanclip_jax.measure.ranks import Classifier, unit
from cleanclip_jax.measure.sets import open_sets
from cleanclip_jax.measure.trigger_shift import largest_shifts

TRIGGER = {"name": "badnet", "size": 4, "noise": "fixed", "place": "fixed"}
READING = Reading(64)


@pytest.fixture
def config():
    config = defaults()
    with config.ignore_type():
        config.evaluation.data = ConfigDict(
            {"kind": "digits", "split": "test", "templates": ["a handwritten {}."]}
        )
        config.evaluation.attack = ConfigDict({"trigger": TRIGGER, "target": "seven"})
        config.evaluation.templates = ["a handwritten {}."]
        config.evaluation.cache = 0.0
    return config


@pytest.mark.slow
def test_the_furthest_turned_come_first(config, make_encoder):
    """Against the angles of all pictures, one by one."""
    model, other = make_encoder(), make_encoder(seed=1)
    first = open_sets(config.evaluation)[0]
    every = np.arange(len(first.source))
    clean = unit(embed(model, Shown(first.source, every), READING).rows)
    hit = unit(embed(model, Shown(first.source, every, make_trigger(TRIGGER)), READING).rows)
    cosines = (clean * hit).sum(1)
    cosines[first.labels == 7] = np.inf
    expected = np.argsort(cosines, kind="stable")[:5]

    width = model.model.variant.features
    head = Classifier(first.classes, np.zeros((10, width)), np.eye(10)[3], False, "linear head")
    shifts = largest_shifts(config, {"before": (model, None), "after": (other, head)}, 5)
    assert [each.where for each in shifts] == [first.source.where(i) for i in expected.tolist()]
    for each, index in zip(shifts, expected.tolist(), strict=True):
        assert each.true == first.classes[first.labels[index]] != "seven"
        assert each.predictions["before"].cosine == pytest.approx(cosines[index], abs=1e-5)
        assert (each.predictions["after"].clean, each.predictions["after"].triggered) == (
            "three",
            "three",
        )
        assert (each.clean != each.triggered).any(-1).sum() <= 16  # the patch alone
    assert len({each.clean.tobytes() for each in shifts}) == 5


def test_without_an_attack_there_is_nothing_to_see(config, make_encoder):
    config.evaluation.attack = None
    with pytest.raises(UserError, match="no labelled set with an attack"):
        largest_shifts(config, {"one": (make_encoder(), None)}, 3)
