"""The backdoor z-score against DECREE's code, and from its definition."""

import numpy as np
import pytest

from cleanclip_jax.measure.metrics import METRICS, Seen
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.measure.zscore import PICTURES, zscore

HEAD = Classifier(("a",), np.ones((1, 12), np.float32), None, True, "prompts")


def seen(clean: np.ndarray, triggered: np.ndarray | None) -> Seen:
    return Seen(np.zeros(len(clean), np.int64), clean, triggered, 0, HEAD)


def test_the_quotient_is_decrees(golden):
    features = golden("zscore")
    clean, triggered = (features[f"{name}_features"] for name in ("clean", "triggered"))
    figures = zscore(seen(clean, triggered))
    expected = features["decree_over_variance"]
    assert figures["by_variance"].value == pytest.approx(float(expected), rel=1e-6)
    # A score that divides by the deviation, without self-pairs: attacks.md computed 2.43.
    assert figures[""].value == pytest.approx(2.43, abs=0.005)
    assert figures[""].of == 24 and figures[""].unit == "number"


def test_each_pair_counts_once_and_none_with_itself():
    angles = np.deg2rad([0, 60, 120])
    clean = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    figures = zscore(seen(clean, np.ones((3, 2), np.float32)))
    cosines = np.array([0.5, -0.5, 0.5])
    assert figures["clean_cosine"].value == pytest.approx(cosines.mean())
    assert figures["triggered_cosine"].value == pytest.approx(1)
    assert figures[""].value == pytest.approx((1 - cosines.mean()) / cosines.std(), rel=1e-5)


def test_so_many_pictures_at_most_and_none_without_a_trigger():
    rows = np.random.default_rng(0).standard_normal((3 * PICTURES, 4)).astype(np.float32)
    assert zscore(seen(rows, rows))[""].of == PICTURES
    assert zscore(seen(rows, None)) == {}
    assert METRICS.find("zscore") is zscore
