"""Figures of detectors: golden, by brute force, and with ties against the detector."""

import numpy as np
import pytest

from cleanclip_jax.detect.roc import auroc, detection_figures, recall, tpr_at_fpr


@pytest.mark.parametrize(
    ("case", "metrics", "sign"), [("a", "slof/a-pairs", 1), ("b", "clip_score/b", -1)]
)
def test_golden(golden, case, metrics, sign):
    arrays = golden(f"detectors_{case}")
    figures = detection_figures(
        sign * arrays[f"{metrics}/score"].astype(np.float64), arrays[f"inputs/{case}/poisoned"]
    )
    name = f"metrics/{case}-{'slof' if case == 'a' else 'clip_score'}"
    assert figures["auroc"].value == pytest.approx(float(arrays[f"{name}/auroc"]), abs=1e-12)
    assert figures["tpr_at_fpr_5"].value == pytest.approx(float(arrays[f"{name}/tpr_at_fpr5"]))


def test_delongs_interval_holds_the_truth_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    truth = 0.7602499389065233  # Φ(1/√2)
    for _ in range(400):
        _, interval = auroc(rng.normal(1, 1, 40), rng.normal(0, 1, 60))
        assert interval is not None
        inside += interval[0] <= truth <= interval[1]
    assert 0.92 < inside / 400 < 0.98
    poisons, clean = rng.integers(0, 5, 30).astype(float), rng.integers(0, 4, 50).astype(float)
    pairs = poisons[:, None] - clean[None]
    value, interval = auroc(poisons, clean)
    assert interval is not None
    assert value == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    # By its definition: the variance of the mean kernel over either sample.
    kernel = (pairs > 0) + (pairs == 0) / 2
    variance = kernel.mean(1).var(ddof=1) / 30 + kernel.mean(0).var(ddof=1) / 50
    assert interval[1] - interval[0] == pytest.approx(2 * 1.959963984540054 * variance**0.5)


def test_ties_count_against_the_detector():
    poisons, clean = np.array([3.0, 2.0, 2.0, 0.0]), np.array([2.0] * 6 + [1.0] * 14)
    assert tpr_at_fpr(poisons, clean, 0.05).count == 1  # the six of score 2 are too many
    assert tpr_at_fpr(poisons, clean, 0.3).count == 3
    assert "(6 of 20)" in tpr_at_fpr(poisons, clean, 0.3).definition
    assert tpr_at_fpr(poisons, clean, 0.0).count == 1
    assert recall(poisons, clean, 0.25).count == 1  # 6 of 24: 3, then clean pairs
    assert recall(poisons, clean, 0.375).count == 3
    constant = detection_figures(np.ones(24), np.arange(24) < 4)
    assert constant["auroc"].value == 0.5 and constant["tpr_at_fpr_5"].count == 0
    assert constant["recall_at_10"].count == 0


def test_pairs_without_a_score_are_in_no_denominator():
    scores = np.array([np.nan, 2.0, 1.0, np.nan, 0.0])
    figures = detection_figures(scores, np.array([True, True, False, False, False]))
    assert figures["auroc"].of == 1 and figures["auroc"].value == 1
    assert figures["auroc"].interval is None  # nobody can say from one poison
    none = detection_figures(scores, np.zeros(5, bool))
    assert none["auroc"].value is None and none["tpr_at_fpr_1"].value is None
