"""The light view against PAR's own noise and squares (tests/golden), and what must hold of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.views.device_light import SHARES, brighten, lighten, square
from cleanclip_jax.views.normalise import MEAN, normalise

compute = jax.jit(lighten)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_noise_equals_the_original(golden):
    g = golden("par")
    picture, normal, noisy = (
        jnp.asarray(g[f"augment/{name}"].transpose(1, 2, 0))
        for name in ("picture", "normal", "noisy")
    )
    np.testing.assert_allclose(brighten(255 * picture, normal) / 255, noisy, atol=2e-7)


@pytest.fixture(scope="module")
def squares():
    """Top, left and side of many squares in a picture of 224 pixels."""
    draws = np.random.default_rng(0).random((20_000, 3), np.float32)
    last = np.full((1, 3), np.nextafter(np.float32(1), np.float32(0)))
    found = jax.jit(jax.vmap(lambda draws: square(draws, 224)))(np.concatenate([draws, last]))
    return np.asarray(found)


def test_sides_of_squares_have_the_originals_law(golden, squares):
    """The side is the rounded root of an area that is uniform between two shares."""
    low, high = 224**2 * SHARES[0], 224**2 * SHARES[1]
    sides = np.arange(16, 23)
    bounds = np.clip(np.array([sides - 0.5, sides + 0.5]) ** 2, low, high)
    expected = (bounds[1] - bounds[0]) / (high - low)
    assert expected.sum() == pytest.approx(1)
    boxes = golden("par")["augment/boxes_224"]
    assert (boxes[:, 2] == boxes[:, 3]).all()
    for drawn, tolerance in ((squares[:, 2], 0.012), (boxes[:, 2], 0.12)):
        assert set(drawn) <= set(sides)
        shares = np.array([(drawn == side).mean() for side in sides])
        np.testing.assert_allclose(shares, expected, atol=tolerance)


def test_places_of_squares_have_the_originals_law(golden, squares):
    """Of all places at which it fits each as likely, the last among them."""
    boxes = golden("par")["augment/boxes_224"]
    for top_left, side, bound in (
        (squares[:, :2], squares[:, 2], 0.015),
        (boxes[:, :2], boxes[:, 2], 0.2),
    ):
        places = (224 - side + 1)[:, None]
        assert (top_left >= 0).all() and (top_left < places).all()
        for at in np.sort((top_left + 0.5) / places, axis=0).T:
            uniform = (np.arange(len(at)) + 0.5) / len(at)
            assert np.abs(at - uniform).max() < bound, "Kolmogorov and Smirnov's distance"
    assert (squares[:, :2].max(0) >= 224 - 18).all() and (squares[:, :2].min(0) == 0).all()


def test_half_of_the_pictures_are_brightened_and_half_have_a_square():
    images = jnp.full((128, 32, 32, 3), 100, jnp.uint8)
    shown = np.asarray(compute(images, keys(128)))
    assert shown.dtype == np.float32 and shown.max() <= 255
    erased = (np.abs(shown - 255 * MEAN) < 1e-4).all(-1)
    areas = erased.sum((1, 2))
    assert set(areas) <= {0, *(side**2 for side in (2, 3))}
    assert (shown[~erased] >= 100).all(), "noise only brightens"
    noisy = (shown > 100).any(-1) & ~erased
    noisy = noisy.mean((1, 2)) > 0.5
    for share in (noisy.mean(), (areas > 0).mean()):
        assert 0.37 < share < 0.63
    both = (noisy & (areas > 0)).mean()
    assert 0.14 < both < 0.36, "two coins"
    # What is erased is 0 to the encoders.
    assert np.abs(np.asarray(normalise(jnp.asarray(shown)))[erased]).max() < 1e-6


def test_a_picture_and_its_key_decide_and_neighbours_do_not():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3)), jnp.uint8)
    whole = compute(images, keys(128))
    np.testing.assert_array_equal(compute(images[::-1], keys(128)[::-1])[::-1], whole)
    assert (np.asarray(compute(images, keys(128, 1))) != whole).any()
