"""Re-activation: four rows, the same budget, a perturbation that does what it was sought for."""

import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.ranks import text_classifier
from cleanclip_jax.persist import reactivation
from cleanclip_jax.persist.reactivation import landing, measure_reactivation, search


def test_four_rows_and_none_twice(make_trial, say, monkeypatch):
    trial = make_trial()
    measure_reactivation(trial, say)
    rows = {(row["model"], row["at"]): row["figures"] for row in trial.rows}
    assert set(rows) == {(m, a) for m in ("cleaned", "floor") for a in ("trigger", "no trigger")}
    for name in ("cleaned", "floor"):
        measured = trial.measure(trial.encoder(trial.starts[name]))
        # Without a perturbation they are what is measured elsewhere.
        assert rows[name, "trigger"]["before"]["value"] == measured["asr"]["value"]
        plain = measured["clean_target_rate"]["value"]
        assert rows[name, "no trigger"]["before"]["value"] == plain
    found = np.load(trial.folder / "perturbations/cleaned,trigger,seed=0.npy")
    assert found.shape == (16, 16, 3) and np.abs(found).max() <= np.float32(0.05)
    other = np.load(trial.folder / "perturbations/cleaned,no_trigger,seed=0.npy")
    assert (found != other).any()
    monkeypatch.setattr(reactivation, "search", lambda *args: pytest.fail("sought again"))
    measure_reactivation(make_trial(), say)


def test_a_wide_search_brings_pictures_to_the_target(make_trial):
    trial = make_trial(radius=0.9, step_size=5.0, rounds=20)
    encoder, labelled = trial.encoder(trial.starts["cleaned"]), trial.opened.sets[0]
    classifier = text_classifier(encoder, labelled.classes, labelled.templates)
    (goal,) = trial.goals
    pictures = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    searched = (pictures, classifier, goal.target, 0)
    found = search(trial, encoder, *searched)
    np.testing.assert_array_equal(found, search(trial, encoder, *searched))
    before, after = (
        landing(trial, encoder, goal, "no trigger", one, classifier).mean()
        for one in (np.zeros_like(found), found)
    )
    assert after > before + 0.3


def test_a_search_that_ends_in_no_number_is_one_line(make_trial, monkeypatch):
    trial = make_trial()
    encoder, labelled = trial.encoder(trial.starts["cleaned"]), trial.opened.sets[0]
    classifier = text_classifier(encoder, labelled.classes, labelled.templates)

    def broken(*args):
        return lambda found, *others: (found * np.nan, {}, found)

    monkeypatch.setattr(reactivation, "make_wake_step", broken)
    pictures = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="lower --step-size"):
        search(trial, encoder, pictures, classifier, 0, 0)
