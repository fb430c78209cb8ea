"""The courses of what `cleanclip persist` has measured."""

import pytest
from helpers.persist_rows import ROWS

from cleanclip_jax.report.persist_rows import courses, names_of, woken


def test_a_course_begins_with_what_was_before_it_and_a_path_does_not():
    ways = courses(ROWS, "rebound", "asr")
    assert ways["cleaned", 1e-3, 0] == pytest.approx({0: 0.02, 1: 0.1, 2: 0.3})
    assert ways["floor", 1e-3, 0] == pytest.approx({0: 0.01, 1: 0.01, 2: 0.02})
    assert courses(ROWS, "path", "asr")["cleaned", None, None] == {0: 0.02, 0.5: 0.6, 1: 1.0}
    assert courses(ROWS, "retune", "asr") == {}


def test_perturbed_rows_by_seed():
    assert woken(ROWS, "asr", "cleaned", "trigger") == {0: 0.9, 1: 0.8}
    assert woken(ROWS, "asr", "floor", "no trigger") == {}
    assert names_of(ROWS)[:2] == ["ca", "asr"]
