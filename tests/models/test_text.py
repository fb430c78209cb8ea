"""The text tower is causal."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.encoders import encode_text

from cleanclip_jax.models.blocks import Compute
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.text import TextTransformer
from cleanclip_jax.models.variants import VARIANTS

END = 299


def test_text_is_causal():
    """What follows the end of text changes nothing, and neither does cutting it off."""
    model = build("ViT-test")
    weights = init(model, jax.random.key(0))
    tokens = jnp.asarray([[298, 5, 7, END, 0, 0, 0, 0], [298, 9, END, 0, 0, 0, 0, 0]])
    after = tokens.at[0, 4:].set(jnp.asarray([3, 17, 200, 1])).at[1, 3:].set(11)
    features = encode_text(model, weights, tokens)
    np.testing.assert_array_equal(features, encode_text(model, weights, after))
    np.testing.assert_allclose(features, encode_text(model, weights, tokens[:, :4]), atol=1e-5)
    before = tokens.at[0, 1].set(6)
    assert np.abs(encode_text(model, weights, before) - features)[0].max() > 1e-3


@pytest.mark.parametrize(
    "numbers", [{"causal": False}, pytest.param({"text_pool": "last"}, marks=pytest.mark.slow)]
)
def test_a_tower_that_sees_the_pads_gets_them(numbers):
    """So captions may come cut to what a batch needs, as for a causal tower."""
    tower = TextTransformer(replace(VARIANTS["ViT-test"], text_layers=1, **numbers), Compute())
    tokens = jnp.asarray([[298, 5, 7, END], [298, 9, END, 0]])
    whole = jnp.pad(tokens, ((0, 0), (0, 12)))
    weights = jax.jit(tower.init)(jax.random.key(0), whole)
    cut, uncut = (jax.jit(tower.apply)(weights, rows) for rows in (tokens, whole))
    np.testing.assert_array_equal(cut, uncut)
