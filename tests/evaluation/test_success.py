"""The figures against cases counted by hand."""

import numpy as np
import pytest

from cleanclip_jax.evaluation.success import attack_figures, clean_figures, share

# Six pictures of classes 0, 0, 1, 2, 2, 2; the target is class 2.
LABELS = np.array([0, 0, 1, 2, 2, 2])


def test_clean_figures():
    ranks = np.array([[0, 1], [1, 0], [3, 2], [0, 0], [0, 0], [2, 2]])
    figures = clean_figures(LABELS, ranks, target=2, classes=5)
    assert {name: (f.count, f.of) for name, f in figures.items()} == {
        "ca": (3, 6),
        "ca_top3": (5, 6),  # top 5 and 10 of five classes can't miss and are left out
        "clean_target_rate": (1, 3),
    }
    assert figures["ca"].value == 0.5


def test_attack_figures_exclude_the_target_class_or_say_so():
    """The second picture lands on the target; a third of all pictures already belongs there."""
    ranks = np.array([[0, 1], [1, 0], [1, 0], [0, 0], [0, 0], [1, 1]])
    figures = attack_figures(LABELS, ranks, target=2)
    assert (figures["asr"].count, figures["asr"].of) == (2, 3)
    assert (figures["asr_all"].count, figures["asr_all"].of) == (4, 6)
    assert (figures["pa"].count, figures["pa"].of) == (3, 6)


def test_a_figure_of_nothing_has_no_value():
    figures = attack_figures(np.array([2, 2]), np.zeros((2, 2), int), target=2)
    assert figures["asr"].of == 0 and figures["asr"].value is None
    assert figures["asr_all"].value == 1.0


@pytest.mark.parametrize("target", [None, 2])
def test_definitions_go_with_the_figures(target):
    figures = clean_figures(LABELS, np.zeros((6, 2), int), target, classes=3)
    assert ("clean_target_rate" in figures) == (target is not None)
    for figure in figures.values():
        assert set(figure.to_json()) == {"value", "count", "of", "definition"}
        assert figure.definition
    assert share(np.array([True, False]), "x").value == 0.5
