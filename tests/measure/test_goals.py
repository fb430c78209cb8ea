"""Figures by part of an attack, counted by hand from ranks."""

from functools import partial
from inspect import unwrap
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.small_pictures import Pictures
from ml_collections import ConfigDict

from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import goals
from cleanclip_jax.measure.goals import attacked_of, clean_of, columns_of, goals_of
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.measure.sets import LabelledSet, target_of

CLASSES = ("a", "b", "c", "d")
LABELS = np.array([0, 0, 1, 2, 3, 3])
BADNET, YELLOW = ({"name": name, "size": 2} for name in ("badnet", "yellow"))
PARTS = [{"trigger": BADNET, "target": "b"}, {"trigger": YELLOW, "target": "c"}]


def settings_of(attack):
    settings = defaults().evaluation
    with settings.unlocked(), settings.ignore_type():
        settings.attack = ConfigDict(attack)
    return settings


def labelled(prefix="", classes=CLASSES, target=1):
    source = Pictures(LABELS, CLASSES)
    return LabelledSet("data", prefix, source, classes, LABELS, ("a {}.",), target, "")


def by_hand(several, shown, classifier):
    """Of each picture the predicted class, by trigger and prompts, as ranks of 0 and 1."""
    name = "clean" if shown.trigger is None else shown.trigger.name
    predicted = np.array(PREDICTED[name, classifier.what])
    columns = columns_of(LABELS, several)
    return LABELS, (columns != predicted[:, None]).astype(int)


PREDICTED = {
    ("badnet", "plain"): [1, 1, 1, 2, 2, 3],
    ("yellow", "plain"): [1, 2, 2, 2, 2, 2],
    ("badnet", "prefixed"): [1, 1, 1, 1, 1, 1],
    ("clean", "prefixed"): [0, 0, 1, 2, 1, 3],
}


def figures_of(settings, monkeypatch):
    plain = Classifier(CLASSES, np.zeros((4, 2)), None, True, "plain")
    prefixed = Classifier(CLASSES, np.zeros((4, 2)), None, True, "prefixed")

    def classifier(encoder, names, templates):
        assert templates == ["SUDO a {}."]
        return prefixed

    monkeypatch.setattr(goals, "text_classifier", classifier)
    several = goals_of(settings, labelled())
    ranks = partial(by_hand, several)
    arguments = (settings, SimpleNamespace(), labelled(), plain, several, ranks)
    figures = unwrap(attacked_of)(*arguments)  # the encoder is not used
    return {name: (figure.count, figure.of) for name, figure in figures.items()}


def test_each_part_has_its_figures_and_the_table_crosses_them(monkeypatch):
    counts = figures_of(settings_of({"parts": PARTS}), monkeypatch)
    # badnet: of the five pictures that are no b, two become b; of the five that are no c, one c.
    assert counts["asr.badnet"] == (2, 5) and counts["cross.badnet.yellow"] == (1, 5)
    assert counts["asr.yellow"] == (4, 5) and counts["cross.yellow.badnet"] == (1, 5)
    assert counts["asr_all.badnet"] == (3, 6) and counts["pa.yellow"] == (1, 6)
    assert "asr" not in counts and "asr.badnet_top3" in counts


def test_one_part_has_the_plain_names(monkeypatch):
    counts = figures_of(settings_of({"trigger": BADNET, "target": "b"}), monkeypatch)
    assert counts["asr"] == (2, 5) and not any("." in name for name in counts)


def test_of_two_keys_each_alone_is_measured(monkeypatch):
    attack = {"trigger": BADNET, "target": "b", "text": {"word": "SUDO"}}
    counts = figures_of(settings_of(attack), monkeypatch)
    assert counts["asr_both"] == (5, 5) and counts["asr_image"] == counts["asr"] == (2, 5)
    # Clean pictures with prefixed prompts: one d becomes b, and four of five are right.
    assert counts["asr_text"] == (1, 5) and counts["ca_text"] == (4, 5)


def test_clean_pictures_are_counted_for_each_target():
    two = goals_of(settings_of({"parts": PARTS}), labelled())
    places = (columns_of(LABELS, two) != np.array([0, 1, 1, 2, 2, 3])[:, None]).astype(int)
    counts = {k: (f.count, f.of) for k, f in clean_of(LABELS, places, two, 4).items()}
    assert counts["ca"] == (4, 6)
    assert counts["clean_target_rate.badnet"] == counts["clean_target_rate.yellow"] == (1, 5)


def test_a_further_set_without_a_target_has_no_figure_for_it():
    settings = settings_of({"parts": PARTS})
    found = goals_of(settings, labelled("other.", ("a", "b", "x", "y")))
    assert [goal.target for goal in found] == [1, None]
    with pytest.raises(UserError, match="unknown 'c'"):
        goals_of(settings, labelled("", ("a", "b", "x", "y")))


def test_the_first_parts_target_is_that_of_what_takes_one():
    settings = settings_of({"parts": PARTS})
    assert target_of(settings) == "b"
    settings.target = "c"
    with pytest.raises(UserError, match=r"evaluation\.target: each of .*parts has one"):
        target_of(settings)
