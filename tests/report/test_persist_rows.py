"""The courses that rows give."""

from typing import Any

from cleanclip_jax.report.persist_rows import courses, names_of, woken


def row(protocol: str, asr: float, **more: Any) -> dict[str, Any]:
    figures = {"asr": {"value": asr}}
    return {"protocol": protocol, "model": "cleaned", "figures": figures, **more}


def test_finetuning_begins_with_what_was_before_and_a_path_at_its_first_place():
    rows = [
        row("before", 0.1),
        row("retune", 0.5, at=2, rate=1e-3, seed=0),
        row("retune", 0.4, at=1, rate=1e-3, seed=0),
        row("retune", 0.7, at=1, rate=1e-3, seed=1),
        row("path", 0.3, at=0.5),
    ]
    assert courses(rows, "retune", "asr") == {
        ("cleaned", 1e-3, 0): {0: 0.1, 1: 0.4, 2: 0.5},
        ("cleaned", 1e-3, 1): {0: 0.1, 1: 0.7},
    }
    assert courses(rows, "path", "asr") == {("cleaned", None, None): {0.5: 0.3}}
    assert courses(rows, "rebound", "asr") == courses(rows, "retune", "ca") == {}
    assert names_of(rows) == ["asr"]


def test_woken_is_by_seed_and_of_one_kind_of_pictures():
    rows = [
        row("reactivation", 0.9, at="trigger", seed=0),
        row("reactivation", 0.8, at="trigger", seed=1),
        row("reactivation", 0.1, at="no trigger", seed=0),
    ]
    assert woken(rows, "asr", "cleaned", "trigger") == {0: 0.9, 1: 0.8}
    assert woken(rows, "asr", "floor", "trigger") == {}
