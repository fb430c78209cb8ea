"""Batch norm over groups, frozen or recomputed, whatever the weights are."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.encoders import encode_image, encode_image_train, pictures

from cleanclip_jax.models import resnet as resnet_module
from cleanclip_jax.models.blocks import Compute
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.resnet import Convolution
from cleanclip_jax.models.variants import VARIANTS

KEY = jax.random.key(0)
# Two stages of one block: compiling convolutions is what these tests spend their time on.
SMALL_RESNET = replace(VARIANTS["RN-test"], vision_layers=(1, 1), image_size=32)


@pytest.fixture(scope="module")
def resnet():
    model = build(SMALL_RESNET)
    return model, init(model, KEY)


@pytest.mark.slow
def test_remat_changes_nothing_in_a_resnet(resnet):
    plain, weights = resnet
    other = build(SMALL_RESNET, remat=True)

    def loss(model, params):
        variables = {"params": params, "batch_stats": weights["batch_stats"]}
        features, stats = encode_image_train(model, variables, pictures(4))
        return jnp.square(features).sum(), stats

    for get in (plain, other):
        assert jax.tree.structure(init(get, KEY)) == jax.tree.structure(weights)
    ours = jax.jit(jax.grad(lambda p: loss(plain, p), has_aux=True))(weights["params"])
    theirs = jax.jit(jax.grad(lambda p: loss(other, p), has_aux=True))(weights["params"])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_groups_have_separate_statistics(resnet):
    model, weights = resnet
    grouped = build(SMALL_RESNET, bn_groups=2)
    a, b = pictures(4, 1), pictures(4, 2)
    together, stats = encode_image_train(grouped, weights, jnp.concatenate([a, b]))
    alone_a, stats_a = encode_image_train(model, weights, a)
    alone_b, stats_b = encode_image_train(model, weights, b)
    np.testing.assert_allclose(together, jnp.concatenate([alone_a, alone_b]), atol=1e-5)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, stats_a, stats_b)
    for ours, wanted in zip(jax.tree.leaves(stats), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    joint, _ = encode_image_train(model, weights, jnp.concatenate([a, b]))
    assert np.abs(joint - together).max() > 1e-3


def test_frozen_statistics_are_those_of_evaluation(resnet):
    _, weights = resnet
    frozen = build(SMALL_RESNET, bn_frozen=True)
    features, stats = encode_image_train(frozen, weights, pictures(4))
    np.testing.assert_array_equal(features, encode_image(frozen, weights, pictures(4)))
    jax.tree.map(np.testing.assert_array_equal, stats, weights["batch_stats"])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_products_of_patches_are_the_convolution(monkeypatch, kernel, stride):
    layer = Convolution(4, kernel, stride, Compute(dtype=jnp.float32))
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    weights = layer.init(KEY, x)
    products: Any = layer.apply(weights, x)
    monkeypatch.setattr(resnet_module, "SMALL_MAP", 0)
    convolved: Any = layer.apply(weights, x)
    np.testing.assert_allclose(products, convolved, rtol=1e-5, atol=1e-6)
