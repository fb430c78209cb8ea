"""Hits of captions with a word, against embeddings that are set by hand."""

from inspect import unwrap
from types import SimpleNamespace

import numpy as np
from helpers.small_pictures import Pictures
from ml_collections import ConfigDict

from cleanclip_jax.config import defaults
from cleanclip_jax.measure import word_hits
from cleanclip_jax.measure.features import Features
from cleanclip_jax.measure.goals import goals_of
from cleanclip_jax.measure.sets import LabelledSet
from cleanclip_jax.measure.word_hits import first_hits, hits_of

CLASSES = ("a", "b", "c")
LABELS = np.array([i % 3 for i in range(30)])


def test_the_first_right_picture_is_ranked_and_ties_count_against_it():
    gallery = np.array([[1.0, 0], [0.9, 0], [0.8, 0], [0.8, 1]])
    right = np.array([False, False, True, True])
    assert first_hits(np.array([[1.0, 0], [0, 1.0]]), gallery, right).tolist() == [2, 0]
    assert first_hits(np.array([[1.0, 0]]), gallery[:, :1] @ np.ones((1, 2)), right)[0] == 2
    assert first_hits(np.array([[1.0, 0]]), gallery[:3], np.array([1, 0, 1], bool))[0] == 0
    same = np.ones((4, 2))
    assert first_hits(same[:1], same, right)[0] == 2


def test_the_word_finds_the_target_and_without_it_does_not(monkeypatch):
    """A class's prompts find its pictures, and those with the word the target's."""
    config = defaults()
    attack = {"trigger": {"name": "none"}, "text": {"word": "zx", "at": "end"}, "target": "b"}
    with config.unlocked(), config.ignore_type():
        config.evaluation.attack = ConfigDict(attack)
    source = Pictures(LABELS, CLASSES)
    labelled = LabelledSet("data", "", source, CLASSES, LABELS, ("a {}", "{}"), 1, "")
    eye = np.eye(3, dtype=np.float32)

    def texts_of(encoder, texts):
        return np.stack(
            [eye[1 if text.endswith(" zx") else "abc".index(text[-1])] for text in texts]
        )

    monkeypatch.setattr(word_hits, "texts_of", texts_of)
    shown = Features(eye[LABELS], np.arange(30), {})
    monkeypatch.setattr(word_hits, "embed", lambda *_: shown)
    figures = unwrap(hits_of)(
        config, SimpleNamespace(), labelled, goals_of(config.evaluation, labelled)
    )
    counts = {name: (figure.count, figure.of) for name, figure in figures.items()}
    assert counts["text_hit1"] == counts["text_hit10"] == (4, 4)
    assert counts["text_hit1_plain"] == counts["text_hit10_plain"] == (0, 4)
    assert figures["text_hit5_gain"].value == 1 and figures["text_hit5_gain"].interval is None
