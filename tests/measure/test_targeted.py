"""Targeted figures against a model whose classifier is set by hand."""

import numpy as np
import pytest
from helpers.small_pictures import Pictures
from ml_collections import ConfigDict

from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.attacks.victims import draw_victims
from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import targeted
from cleanclip_jax.measure.features import Features
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.measure.sets import LabelledSet, target_of
from cleanclip_jax.measure.targeted import targeted_of

CLASSES = ("a", "b", "c", "d", "e", "f")
LABELS = [i % 6 for i in range(60)]
SOURCE = Pictures(LABELS, CLASSES)
ATTACK = {"kind": "targeted", "victims": 8, "target": "random", "data": {"kind": "x"}}


@pytest.fixture
def config(monkeypatch):
    config = defaults()
    with config.unlocked(), config.ignore_type():
        config.evaluation.attack = ConfigDict(ATTACK)
        config.evaluation.cache = 0
    monkeypatch.setattr(targeted, "open_source", lambda _: SOURCE)
    return config


@pytest.mark.parametrize("hits", [0, 5, 8])
def test_victims_are_counted(config, monkeypatch, make_encoder, hits: int):
    """So many victims have their target's feature, the others that of their class."""
    (victims,) = draw_victims(parts_of(ATTACK, "evaluation.attack"), SOURCE, 0)

    def embed(encoder, shown, reading):
        names = [each.target if at < hits else each.label for at, each in enumerate(victims)]
        rows = np.eye(6, dtype=np.float32)[[CLASSES.index(name) for name in names]]
        return Features(rows, shown.indices, {})

    monkeypatch.setattr(targeted, "embed", embed)
    classifier = Classifier(CLASSES, np.eye(6), None, True, "text")
    labelled = LabelledSet("data", "", SOURCE, CLASSES, SOURCE.labels(), ("{}",), None, "")
    figures = targeted_of(config, make_encoder(), labelled, classifier)
    counts = {name: (figure.count, figure.of) for name, figure in figures.items()}
    assert counts["targeted_top1"] == (hits, 8) and counts["targeted_kept"] == (8 - hits, 8)
    assert figures["targeted_top1"].interval is not None
    assert (figures["targeted_median_rank"].value == 1) == (hits > 4)
    assert (counts["targeted_top5"][0] or 0) >= hits


def test_its_target_is_no_sets(config):
    assert target_of(config.evaluation) is None


def test_without_the_victims_source_it_is_one_line(config, make_encoder):
    config.evaluation.attack.data = None
    labelled = LabelledSet("data", "", SOURCE, CLASSES, SOURCE.labels(), ("{}",), None, "")
    classifier = Classifier(CLASSES, np.eye(6), None, True, "text")
    with pytest.raises(UserError, match=r"evaluation\.attack\.data: name the source of the vict"):
        targeted_of(config, make_encoder(), labelled, classifier)
