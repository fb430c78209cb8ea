"""The existence coefficient: its parts against the published code's, its ends by definition."""

import numpy as np
import pytest

from cleanclip_jax.measure.existence import (
    changes,
    coefficient,
    existence,
    linear_cka,
    most_moved,
)

LAYERS = ("layer0", "layer1")
OTHERS = {"ft": "ft", "strong": "strong", "clean_model": "clean_model", "attack": "attack_model"}


@pytest.fixture(scope="module")
def values(golden):
    return golden("existence")


def similarity(values, model: str) -> dict[str, float]:
    """Of the channels that the trigger changes most in the poisoned model."""
    result = {}
    for layer in LAYERS:
        top = values[f"{layer}|top10pct"]
        poisoned, other = (
            values[f"{layer}|{name}|triggered"][:, top] for name in ("attack_model", model)
        )
        result[layer] = linear_cka(poisoned, other)
    return result


@pytest.mark.parametrize("layer", LAYERS)
def test_channels_are_those_that_the_original_takes(values, layer):
    clean, triggered = (values[f"{layer}|attack_model|{how}"] for how in ("clean", "triggered"))
    change = changes(clean, triggered)
    expected = values[f"{layer}|tac"]
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-6 * expected.max())
    assert set(most_moved(change)) == set(values[f"{layer}|top10pct"])


@pytest.mark.parametrize("name", OTHERS)
def test_similarity_is_the_originals(values, name):
    mean = np.mean([*similarity(values, OTHERS[name]).values()])
    assert mean == pytest.approx(float(values[f"{name}|cka_mean"]), abs=1e-6)


def test_the_ends_are_the_poisoned_and_the_never_poisoned_model(values):
    floor = similarity(values, "clean_model")
    assert coefficient(similarity(values, "attack_model"), floor).value == pytest.approx(1)
    assert coefficient(floor, floor).value == 0
    # And no other defence moves it, as it does in the original's scale.
    strong, light = (coefficient(similarity(values, k), floor).value for k in ("strong", "ft"))
    assert strong is not None and light is not None and 0 < strong < light < 1


def test_a_layer_that_tells_nothing_is_left_out():
    result = coefficient({"a": 0.9, "b": 0.6}, {"a": 1.0, "b": 0.2})
    assert result.layers == {"a": None, "b": pytest.approx(0.5)}
    assert result.value == pytest.approx(0.5)
    assert coefficient({"a": 1.0}, {"a": 1.0}).value is None


def test_cka_is_blind_to_scale_and_place_but_not_to_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3, 4))
    assert linear_cka(x, 7 * x + 2) == pytest.approx(1)
    assert linear_cka(x, rng.normal(size=x.shape)) < 0.7


@pytest.mark.parametrize("devices", [1, 2])
def test_models_are_compared_over_batches_and_devices(make_encoder, devices):
    rng = np.random.default_rng(1)
    clean = rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    triggered = clean.copy()
    triggered[:, :6, :6] = 255
    poisoned, cleaned, floor = (make_encoder(devices, seed) for seed in (1, 2, 3))
    others = {"poisoned": poisoned, "cleaned": cleaned, "floor": floor}
    result = existence(poisoned, others, floor, clean, triggered)
    assert result["poisoned"].value == pytest.approx(1)
    assert result["floor"].value == pytest.approx(0)
    assert set(result["cleaned"].layers) == {"block1", "block2"}
    value = result["cleaned"].value
    assert value is not None and 0 < value < 1
