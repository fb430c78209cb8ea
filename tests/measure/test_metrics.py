"""Metrics of one's own: their figures by name, and their mistakes in a line."""

import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.estimates import share
from cleanclip_jax.measure.metrics import Seen, custom_figures
from cleanclip_jax.measure.ranks import Classifier

ROWS = np.array([[3.0, 0.0], [0.0, 2.0]], np.float32)
HITS = share(np.array([True, False]), "x")


@pytest.fixture
def seen():
    head = Classifier(("a", "b"), np.eye(2, dtype=np.float32), np.ones(2), False, "linear head")
    return Seen(np.array([0, 1]), ROWS, None, None, head)


def test_figures_have_the_metrics_name(seen):
    figures = custom_figures({"one": lambda _: HITS, "two": lambda _: {"a": HITS}}, seen)
    assert figures == {"one": HITS, "two_a": HITS}
    assert seen.scores(ROWS).tolist() == [[4, 1], [1, 3]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: 3.0, "mine gave float, no Figure"),
        (lambda _: 1 / 0, r"mine: ZeroDivisionError: division by zero \(.*test_metrics.py line"),
        (lambda seen: seen.triggered.sum(), "mine: AttributeError: 'NoneType' object has no"),
    ],
)
def test_a_mistake_in_it_is_one_line(seen, function, message):
    with pytest.raises(UserError, match=f"config.evaluation.metrics: {message}"):
        custom_figures({"mine": function}, seen)
