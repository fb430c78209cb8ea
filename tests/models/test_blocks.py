"""The transformer with and without scan and remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.encoders import encode_image, encode_text, pictures

from cleanclip_jax.models.clip import build, init

KEY = jax.random.key(0)
END = 299


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"scan": True}, marks=pytest.mark.faults),
        pytest.param({"remat": True}, marks=pytest.mark.faults),
        pytest.param({"scan": True, "remat": True}, marks=pytest.mark.slow),
    ],
)
def test_scan_and_remat_change_nothing(options):
    plain = build("ViT-test")
    weights = init(plain, KEY)
    other = build("ViT-test", **options)
    shapes = jax.tree.map(jnp.shape, weights)
    assert jax.tree.map(jnp.shape, init(other, KEY)) == shapes
    tokens = jnp.asarray([[298, 5, 7, END], [298, 9, END, 0]])
    images = pictures(2)

    def loss(model, params):
        variables = {"params": params}
        image, text = encode_image(model, variables, images), encode_text(model, variables, tokens)
        return (image * text).sum()

    ours = jax.jit(jax.grad(lambda params: loss(plain, params)))(weights["params"])
    theirs = jax.jit(jax.grad(lambda params: loss(other, params)))(weights["params"])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
