"""The inversion engine, and InverTune's objective against the original's own steps."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import relative, variables

from cleanclip_jax.detect.inversion import (
    INVERTUNE,
    WEIGHTS,
    Inversion,
    given_target,
    in_range,
    mixed,
    optimise,
    pad_rows,
    ssim,
)
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.models.clip import build, encode_image

TERMS = ("towards", "embedding", "unlike", "area", "loss")


def nhwc(x):
    return jnp.asarray(np.moveaxis(np.asarray(x, np.float32), -3, -1))


def blocks(weights, x):
    """The encoder of the golden values: tanh of a product with the means of 4 x 4 blocks."""
    b, s, _, c = x.shape
    means = x.reshape(b, s // 4, 4, s // 4, 4, c).mean((2, 4))
    return jnp.tanh(means.transpose(0, 3, 1, 2).reshape(b, -1) @ weights.T)


def unit(x):
    return np.asarray(normalise_rows(x))


@pytest.mark.slow
def test_three_steps_on_a_vit_are_the_originals(golden):
    g, steps = golden("inversion"), golden("vit_three_steps")
    model, towers = build("ViT-test"), variables(golden, "vit")

    def encode(variables, pictures):
        return encode_image(model, variables, pictures)

    clean, pictures = (nhwc(steps[f"images{v}_nchw"][:4]) for v in ("", "_view"))
    given = given_target(
        g["invertune/inversion/text_embeddings"],
        int(g["invertune/inversion/target"]),
        unit(encode(towers, pictures)),
    )
    start = {
        "mask": jnp.ones((32, 32, 3)),
        "pattern": nhwc(g["invertune/inversion/trigger_start"]),
    }
    inversion = Inversion(encode, mixed, INVERTUNE, in_range)
    after, course = optimise(inversion, towers, start, [clean] * 3, given, WEIGHTS, 0.01)
    ours = [[float(values[name]) for name in TERMS] for values in course]
    np.testing.assert_allclose(ours, g["invertune/inversion/losses"], rtol=2e-6)
    assert relative(after["mask"], nhwc(g["invertune/inversion/mask"])) < 2e-6
    assert relative(after["pattern"], nhwc(g["invertune/inversion/trigger"])) < 2e-6


def test_five_steps_on_a_small_encoder_are_the_originals(golden):
    g = {name.removeprefix("inversion/a/"): x for name, x in golden("inversion").items()}
    weights = jnp.asarray(g["encoder"], jnp.float32)
    first = unit(blocks(weights, nhwc(g["target_images"])))[:1]
    given = given_target(unit(jnp.asarray(g["texts"], jnp.float32)), 3, pad_rows(first, 4))
    start = {"mask": nhwc(g["mask"]), "pattern": nhwc(g["trigger"])}
    inversion = Inversion(blocks, mixed, INVERTUNE, in_range)
    images = nhwc(g["images"])
    _, course = optimise(inversion, weights, start, [images] * 5, given, WEIGHTS, 0.01)
    ours = [[float(values[name]) for name in TERMS] for values in course]
    np.testing.assert_allclose(ours[:3], g["terms"][:3], rtol=1e-5)
    # One element's gradient is next to nothing: from the fourth step on it goes the other way.
    np.testing.assert_allclose(ours, g["terms"], rtol=1e-4)


def test_ssim_is_one_for_the_same_and_falls_with_noise():
    rng = np.random.default_rng(0)
    x = rng.random((2, 16, 16, 3)).astype(np.float32)
    noisy = [x + scale * rng.standard_normal(x.shape).astype(np.float32) for scale in (0.1, 0.5)]
    same, little, much = (float(ssim(jnp.asarray(x), jnp.asarray(y))) for y in (x, *noisy))
    assert same == pytest.approx(1, abs=1e-5)
    assert same > little > much


def test_a_picture_of_the_target_has_a_gradient_without_nan():
    """The Frobenius norm is 0 there: its gradient is 0 in torch and would be NaN here."""
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((8, 192)), jnp.float32)
    images = jnp.ones((2, 32, 32, 3))
    params = {"mask": jnp.zeros((32, 32, 3)), "pattern": jnp.ones((32, 32, 3))}
    units = unit(blocks(weights, images))
    inversion = Inversion(blocks, mixed, INVERTUNE, in_range)
    given = given_target(units, 0, units)
    after, course = optimise(inversion, weights, params, [images], given, WEIGHTS, 0.01)
    assert float(course[0]["embedding"]) == 0
    assert all(np.isfinite(x).all() for x in after.values())
