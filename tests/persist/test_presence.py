"""Presence: every model's z-score, and the coefficients' ends where there is a floor."""

import pytest

from cleanclip_jax.persist import presence
from cleanclip_jax.persist.presence import measure_presence


def test_the_poisoned_model_is_one_and_the_never_poisoned_nothing(make_trial, say, monkeypatch):
    trial = make_trial()
    measure_presence(trial, say)
    figures = {(row["model"], row["at"]): row["figures"] for row in trial.rows}
    assert figures["poisoned", "bec"]["bec"]["value"] == pytest.approx(1)
    assert figures["floor", "bec"]["bec"]["value"] == pytest.approx(0, abs=1e-9)
    cleaned = figures["cleaned", "bec"]["bec"]
    assert cleaned["value"] < 1 and cleaned["of"] > 100
    assert set(cleaned["layers"]) <= {f"block{i}" for i in range(1, 5)}
    for name in ("cleaned", "poisoned", "floor"):
        assert "zscore" in figures[name, "zscore"]
    monkeypatch.setattr(presence, "existence", lambda *args: pytest.fail("compared again"))
    measure_presence(make_trial(), say)


def test_without_a_floor_there_is_no_coefficient(make_trial, say):
    trial = make_trial(floor=False)
    measure_presence(trial, say)
    assert {(row["model"], row["at"]) for row in trial.rows} == {
        ("cleaned", "zscore"),
        ("poisoned", "zscore"),
    }
