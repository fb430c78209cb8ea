"""Ranks of classes: ties, twins, ragged batches, one device and eight."""

import dataclasses

import numpy as np
import pytest
from helpers.small_pictures import NAMES

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import ranks
from cleanclip_jax.measure.ranks import Classifier, rank_classes, text_classifier, unit
from cleanclip_jax.sharding import make_mesh


def head(weights, bias=None, normalised=False):
    names = tuple(f"class {i}" for i in range(len(weights)))
    return Classifier(names, np.asarray(weights, np.float32), bias, normalised, "linear head")


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("normalised", [True, False])
def test_ranks_count_who_comes_before(devices, normalised):
    rng = np.random.default_rng(0)
    features = 3 * rng.standard_normal((21, 6)).astype(np.float32)  # 21: ragged on 8 devices
    weights = rng.standard_normal((12, 6)).astype(np.float32)
    weights[7] = weights[3]
    bias = rng.standard_normal(12).astype(np.float32)
    bias[7] = bias[3]
    classes = rng.integers(0, 12, (21, 3))
    classes[:, 1], classes[:, 2] = 3, 7
    classifier = head(weights, bias, normalised)
    ranks = rank_classes(features, classes, classifier, make_mesh(devices), block=8)
    scores = (unit(features) if normalised else features) @ weights.T + bias
    order = np.argsort(-scores.astype(np.float64).round(5), axis=1, kind="stable")
    wanted = np.take_along_axis(np.argsort(order, axis=1), classes, 1)
    np.testing.assert_array_equal(ranks, wanted)
    # Twins are tied whatever the rounding: the higher index always comes right after.
    np.testing.assert_array_equal(ranks[:, 2], ranks[:, 1] + 1)


def test_ties_go_to_the_lower_index():
    ranks = rank_classes(
        np.ones((1, 2), np.float32), np.array([[0, 1, 2]]), head(np.ones((3, 2))), make_mesh(1)
    )
    assert ranks.tolist() == [[0, 1, 2]]


def test_scale_matters_to_a_head_with_a_bias_and_not_to_prompts():
    features = np.array([[1.0, 0.0], [10.0, 0.0]], np.float32)
    weights, bias = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([0.0, 5.0])
    classes = np.zeros((2, 1), int)
    ranks = rank_classes(features, classes, head(weights, bias), make_mesh(1))
    assert ranks.tolist() == [[1], [0]]
    ranks = rank_classes(features, classes, head(weights, bias, True), make_mesh(1))
    assert ranks.tolist() == [[1], [1]]


def test_what_cannot_be_ranked_is_an_error():
    features = np.ones((3, 2), np.float32)
    classes = np.zeros((3, 1), int)
    with pytest.raises(UserError, match="takes features of 4 numbers, the model gives 2"):
        rank_classes(features, classes, head(np.ones((3, 4))), make_mesh(1))
    with pytest.raises(UserError, match="3 classes, and 2 names"):
        dataclasses.replace(head(np.ones((3, 4))), names=("a", "b"))
    broken = head(np.array([[1.0, 1.0], [np.nan, 1.0]]))
    with pytest.raises(UserError, match="scores for 3 of 3 pictures are not finite"):
        rank_classes(features, classes, broken, make_mesh(1))


TEMPLATES = ("a {}.", "the digit {}, again {}")


def test_templates_are_normalised_averaged_and_normalised_again(make_encoder, monkeypatch):
    encoder = make_encoder()
    monkeypatch.setattr(ranks, "NAMES_AT_ONCE", 2)  # two batches of three names
    ours = text_classifier(encoder, NAMES, TEMPLATES)
    prompts = [t.replace("{}", name) for name in NAMES for t in TEMPLATES]
    features = unit(encoder.text_features(prompts))
    wanted = unit(features.reshape(4, 2, -1).mean(1))
    np.testing.assert_allclose(ours.weights, wanted, atol=1e-6)
    assert (ours.weights[1] == ours.weights[3]).all()
    assert ours.names == NAMES and ours.normalised
