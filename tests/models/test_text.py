"""The text tower is causal."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.encoders import encode_text

from cleanclip_jax.models.clip import build, init

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
