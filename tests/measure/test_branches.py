"""Towers swapped between a poisoned and a clean model."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.small_pictures import Pictures
from ml_collections import ConfigDict

from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import sets
from cleanclip_jax.measure.branches import SCORES, footprint
from cleanclip_jax.measure.measure import evaluate
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.models.clip import build


def test_the_papers_check_values():
    scores = footprint(0.0992, 0.9993, 0.0994, 0.9994)
    assert [round(scores[name], 4) for name in SCORES] == [0.9999, 0.0002, 0.0001]
    assert scores["holder"] == "vrs"


@pytest.mark.parametrize(
    ("successes", "holder"),
    [
        ((0.0, 0.05, 0.95, 1.0), "trs"),
        ((0.0, 0.05, 0.1, 1.0), "css"),
        ((0.0, 0.69, 0.0, 1.0), None),  # not above 0.70
        ((0.0, 0.9, 0.75, 1.0), None),  # less than 0.20 ahead
        ((0.5, 0.54, 0.5, 0.5499), None),  # weak
    ],
)
def test_a_tower_holds_the_backdoor_where_it_is_clearly_ahead(successes, holder):
    scores = footprint(*successes)
    assert scores["holder"] == holder
    assert (scores["vrs"] is None) == (abs(successes[3] - successes[0]) < 0.05)


@pytest.fixture
def config(monkeypatch, cache):
    monkeypatch.setattr(sets, "open_source", lambda _: Pictures([0, 1, 2] * 8, ("a", "b", "c")))
    config = defaults()
    with config.unlocked(), config.ignore_type():
        config.evaluation.data = ConfigDict({"kind": "parquet", "path": "x"})
        config.evaluation.attack = ConfigDict(
            {"trigger": {"name": "yellow", "size": 8}, "target": "b"}
        )
        config.evaluation.templates, config.evaluation.branches = ["{}"], True
    return config


def test_each_swap_takes_one_tower_of_either_model(config, make_encoder):
    """A model that has the other's text tower scores as the other does with this image tower."""
    poisoned, clean = make_encoder(), make_encoder(seed=3)
    result = evaluate(config, poisoned, floor=clean)
    figures = {name: figure["value"] for name, figure in result["figures"].items()}
    back = evaluate(config, clean, floor=poisoned)["figures"]
    assert figures["image_tower_asr"] == back["text_tower_asr"]["value"]
    assert figures["text_tower_asr"] == back["image_tower_asr"]["value"]
    names = ("floor_asr", "image_tower_asr", "text_tower_asr", "asr")
    assert result["branches"] == {"data": {"asr": footprint(*(figures[name] for name in names))}}


def test_what_can_not_be_swapped_is_refused(config, make_encoder):
    poisoned = make_encoder()
    with pytest.raises(UserError, match=r"under an attack: set config\.evaluation\.attack"):
        unattacked = config.copy_and_resolve_references()
        with unattacked.ignore_type():
            unattacked.evaluation.attack = None
        evaluate(unattacked, poisoned, floor=poisoned)
    other = replace(poisoned, model=build("ViT-test-one"))
    with pytest.raises(UserError, match="of one architecture"):
        evaluate(config, poisoned, floor=other)
    head = Classifier(("a", "b", "c"), np.zeros((3, 48)), None, False, "head")
    with pytest.raises(UserError, match="head takes the place of one"):
        evaluate(config, poisoned, floor=poisoned, head=head)
