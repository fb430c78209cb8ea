"""The universal perturbation against the published loop's (tests/golden, float32)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import variables

from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.models.clip import build, encode_text
from cleanclip_jax.persist.universal import features_of, make_wake_step, perturbed, terms_of

LOSSES = "linf=0.05|lr=0.05|target=3|lambda1=1|lambda2=1|losses(loss1,loss2,sum)"
TARGET, RADIUS, RATE = 3, 0.05, 0.05


@pytest.fixture(scope="module")
def values(golden):
    return golden("reactivation")


@pytest.fixture(scope="module")
def model(golden):
    return build("ViT-test"), variables(golden, "vit")


def hwc(values: np.ndarray) -> np.ndarray:
    return values[0].transpose(1, 2, 0)


def test_steps_are_the_originals(values, model):
    clip, weights = model
    embedded = np.asarray(encode_text(clip, weights, jnp.asarray(values["class_tokens"])))
    classes = jnp.asarray(unit(embedded))
    np.testing.assert_allclose(classes, unit(values["class_embeddings"]), atol=1e-6)
    images, wake = jnp.asarray(values["triggered_pictures"]), make_wake_step(clip, RADIUS, RATE)
    perturbation, losses, first = jnp.asarray(hwc(values["init"])), [], None
    for number in range(5):
        units = unit(np.asarray(features_of(clip, weights, images, perturbation)))
        scores = units @ np.asarray(classes).T
        scores[:, TARGET] = -np.inf
        assert (scores.argmax(1) == values["runner_up"][number]).all()
        perturbation, terms, slope = wake(perturbation, weights, images, classes, TARGET)
        first = slope if first is None else first
        losses.append([*map(float, (terms["target"], terms["runner_up"], sum(terms.values())))])
    np.testing.assert_allclose(losses, values[LOSSES], rtol=1e-5)
    expected = hwc(values["grad_step1"])
    assert first is not None
    np.testing.assert_allclose(first, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(perturbation, hwc(values["perturbation_after_5"]), atol=1e-6)


def test_it_stays_within_its_radius_and_the_pictures_within_theirs(values, model):
    clip, weights = model
    images = jnp.asarray(values["triggered_pictures"])
    classes = jnp.asarray(unit(values["class_embeddings"]))
    wake = make_wake_step(clip, RADIUS, 1e3)  # every value beyond it
    moved = wake(jnp.zeros((32, 32, 3)), weights, images, classes, TARGET)[0]
    assert float(jnp.abs(moved).max()) == np.float32(RADIUS)
    shown = perturbed(images, moved)
    assert float(shown.min()) >= 0 and float(shown.max()) <= 1


def test_gradients_pass_at_the_ends_of_the_range_and_not_beyond():
    images = jnp.asarray(np.array([[[[0, 255, 255]]]], np.uint8))
    slope = jax.grad(lambda p: perturbed(images, p).sum())(jnp.array([[[0.0, 0.0, 0.01]]]))
    assert slope.ravel().tolist() == [1, 1, 0]


def test_the_runner_up_is_never_the_target():
    logits = jnp.array([[5.0, 1.0, 0.0], [0.0, 9.0, 3.0]])
    terms = terms_of(logits, 0)
    q = np.asarray(jax.nn.softmax(logits, axis=-1))
    away = -np.log(1.0001 - np.array([q[0, 1], q[1, 1]]))
    assert float(terms["runner_up"]) == pytest.approx(away.mean(), rel=1e-4)
    assert float(terms["target"]) == pytest.approx(-np.log(q[:, 0]).mean(), rel=1e-5)
