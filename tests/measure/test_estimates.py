"""Intervals against scipy's, and against what they promise."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from cleanclip_jax.measure.estimates import (
    attack_figures,
    clean_figures,
    median_rank,
    share,
    wilson,
)
from cleanclip_jax.measure.ranks import Classifier, rank_classes
from cleanclip_jax.sharding import make_mesh


@pytest.mark.parametrize(
    ("count", "of"), [(0, 7), (7, 7), (1, 2), (389, 400), (3, 50_000), (20, 355)]
)
def test_wilson_is_scipys(count, of):
    wanted = binomtest(count, of).proportion_ci(0.95, method="wilson")
    interval = wilson(count, of)
    assert interval == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert interval is not None and 0 <= interval[0] <= count / of <= interval[1] <= 1


def test_nothing_has_no_interval():
    assert wilson(0, 0) is None
    figure = share(np.zeros(0, bool), "x")
    assert figure.value is None and figure.to_json()["interval"] is None


def test_ranks_count_from_one():
    median = median_rank(np.array([0, 0, 4, 9]), "x")
    assert median.value == 3 and median.of == 4 and median.to_json()["unit"] == "rank"
    assert median_rank(np.zeros(0, int), "x").value is None


def test_the_medians_interval_holds_it_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    population = rng.integers(0, 10_000, 100_001)
    middle, hits = np.median(population) + 1, 0
    for _ in range(400):
        interval = median_rank(rng.choice(population, 150), "x").interval
        assert interval is not None
        hits += interval[0] <= middle <= interval[1]
    assert 0.92 < hits / 400 < 0.99


# Six pictures of classes 0, 0, 1, 2, 2, 2; the target is class 2.
LABELS = np.array([0, 0, 1, 2, 2, 2])


def counts(figures):
    return {name: (figure.count, figure.of) for name, figure in figures.items()}


def test_clean_figures():
    ranks = np.array([[0, 1], [1, 0], [3, 2], [0, 0], [0, 0], [2, 2]])
    figures = clean_figures(LABELS, ranks, target=2, classes=5)
    assert counts(figures) == {
        "ca": (3, 6),
        "ca_top3": (5, 6),  # top 5 and 10 of five classes can't miss and are left out
        "clean_target_rate": (1, 3),
        "clean_target_rate_top3": (3, 3),
    }
    assert figures["ca"].value == 0.5


def test_attack_figures_exclude_the_target_class_or_say_so():
    """The second picture lands on the target; half of all pictures already belong there."""
    ranks = np.array([[0, 1], [1, 0], [4, 0], [0, 0], [0, 0], [1, 3]])
    assert counts(attack_figures(LABELS, ranks, target=2, classes=6)) == {
        "asr": (2, 3),
        "asr_top3": (3, 3),
        "asr_top5": (3, 3),
        "asr_all": (4, 6),
        "asr_all_top3": (5, 6),
        "asr_all_top5": (6, 6),
        "pa": (3, 6),
        "pa_top3": (5, 6),
        "pa_top5": (6, 6),
    }


def test_a_figure_of_nothing_has_no_value():
    figures = attack_figures(np.array([2, 2]), np.zeros((2, 2), int), target=2, classes=3)
    assert figures["asr"].of == 0 and figures["asr"].value is None
    assert figures["asr"].to_json()["interval"] is None
    assert figures["asr_all"].value == 1.0


@pytest.mark.parametrize("target", [None, 2])
def test_definitions_go_with_the_figures(target):
    figures = clean_figures(LABELS, np.zeros((6, 2), int), target, classes=3)
    assert ("clean_target_rate" in figures) == (target is not None)
    for figure in figures.values():
        content = figure.to_json()
        assert set(content) == {"value", "interval", "count", "of", "unit", "definition"}
        assert content["definition"] and content["interval"][0] <= content["value"]


def test_the_same_as_scikit_learn():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((500, 16)).astype(np.float32)
    weights = rng.standard_normal((30, 16)).astype(np.float32)
    bias = rng.standard_normal(30).astype(np.float32)
    labels, target = rng.integers(0, 30, 500), 4
    head = Classifier(tuple(map(str, range(30))), weights, bias, False, "head")
    classes = np.stack([labels, np.full(500, target)], 1)
    ranks = rank_classes(features, classes, head, make_mesh(1))
    figures = clean_figures(labels, ranks, target, 30)
    scores = features.astype(np.float64) @ weights.T.astype(np.float64) + bias
    for name, k in (("ca", 1), ("ca_top3", 3), ("ca_top5", 5), ("ca_top10", 10)):
        wanted = top_k_accuracy_score(labels, scores, k=k, labels=range(30))
        assert figures[name].value == pytest.approx(wanted, abs=1e-12)
    predicted, others = scores.argmax(1), labels != target
    assert figures["ca"].value == accuracy_score(labels, predicted)
    attacked = attack_figures(labels, ranks, target, 30)
    assert attacked["asr"].value == (predicted[others] == target).mean()
    assert attacked["asr_all"].value == (predicted == target).mean()
    wanted = top_k_accuracy_score(np.full(500, target), scores, k=5, labels=range(30))
    assert attacked["asr_all_top5"].value == pytest.approx(wanted, abs=1e-12)
