"""What is opened before anything is measured, and what is refused then."""

import pytest
from helpers.small_pictures import Pictures
from ml_collections import ConfigDict

from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import sets
from cleanclip_jax.measure.measure import POISONED_SHARE, open_measured

ATTACK = {"trigger": {"name": "badnet", "size": 2}, "target": "b"}


@pytest.fixture
def settings(monkeypatch):
    def make(labels=(0, 1), **keys):
        monkeypatch.setattr(sets, "open_source", lambda _: Pictures(list(labels), ("a", "b")))
        settings = defaults().evaluation
        with settings.unlocked(), settings.ignore_type():
            settings.data = ConfigDict({"kind": "parquet", "path": "x"})
            for key, value in keys.items():
                settings[key] = ConfigDict(value) if isinstance(value, dict) else value
        return settings

    return make


def test_what_is_measured_is_opened(settings):
    opened = open_measured(settings(attack=ATTACK, labels=[0, 1] * 5, projection=10))
    assert [each.name for each in opened.sets] == ["data"] and opened.sets[0].target == 1
    assert opened.gallery is None and opened.poisoned_share == POISONED_SHARE


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": None}, "config.evaluation.data is not set"),
        ({"labels": [-1]}, "the set 'data' is empty"),
        ({"projection": 9, "attack": ATTACK}, "is 9: it takes 10 or more pictures"),
        ({"projection": 10}, "is 10: it needs a labelled set and an attack on it"),
        ({"projection": 10, "attack": ATTACK}, "is 10: data has 2, 10 are needed"),
        ({"attack": {**ATTACK, "trigger": {"name": "bad"}}}, "unknown 'bad'"),
        ({"metrics": "none"}, "config.evaluation.metrics: unknown 'none'"),
        ({"retrieval": {"kind": "digits", "poisoned_share": 2}}, "a share between 0 and 1"),
        ({"retrieval": {"kind": "digits"}, "templates": "none"}, "unknown 'none'"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, keys, message):
    with pytest.raises(UserError, match=message):
        open_measured(settings(**keys))
