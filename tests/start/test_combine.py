"""Weighted sums of models: shrink and perturb as its authors compute it, and mixtures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.start.combine import combined, mixed, shrink_and_perturb

GOLDEN = Path(__file__).parents[1] / "golden"


def test_shrink_and_perturb_is_its_authors():
    with np.load(GOLDEN / "shrink.npz") as file:
        golden = dict(file)
    shrink, perturb = (float(x) for x in golden.pop("lambdas"))
    names = [key.removeprefix("after/") for key in golden if key.startswith("after/")]
    with np.load(GOLDEN / "vit_state_dict.npz") as state:
        start = {"params": {name: state[name] for name in names}, "batch_stats": {"mean": 1}}
    fresh = {"params": {name: golden[f"fresh/{name}"] for name in names}}
    ours = shrink_and_perturb(start, fresh, shrink, perturb, logit_scale=True)
    for name in names:
        after = golden[f"after/{name}"]
        error = np.abs(ours["params"][name] - after).max() / np.abs(after).max()
        assert error < 2e-7 and ours["params"][name].dtype == np.float32, name
    assert ours["batch_stats"] == {"mean": 1}
    apart = shrink_and_perturb(start, fresh, shrink, perturb)["params"]
    assert apart.pop("logit_scale") == start["params"]["logit_scale"] != golden["after/logit_scale"]
    assert all((apart[name] == ours["params"][name]).all() for name in apart)


def models(dtype) -> list[dict]:
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(dtype)
    return [
        {
            "params": {"a": x[:2], "logit_scale": x[2, 0]},
            "batch_stats": {"mean": x[2].astype(np.float32)},
        }
        for x in values
    ]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float64])
def test_the_ends_of_a_mixture_are_the_models_bit_for_bit(dtype):
    a, b = models(dtype)
    a["params"]["a"][0, 0], b["params"]["a"][0, 1] = -0.0, np.inf  # inf of b has no part in a
    for alpha, model in ((0, a), (1, b)):
        ours = mixed(a, b, alpha)
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(model), strict=True):
            assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (-0.7, 1.5), (2.5, -1), (1, 0), (0, 2)])
def test_mixtures_lie_on_a_line(alpha: float, beta: float):
    """Also beyond the two models, where trigger arithmetic goes."""
    a, b = models(np.float64)
    between = mixed(a, b, alpha)
    assert between["batch_stats"] is (b if alpha == 1 else a)["batch_stats"]
    theta = between["params"]["a"]
    expected = a["params"]["a"] + alpha * (b["params"]["a"] - a["params"]["a"])
    np.testing.assert_allclose(theta, expected, atol=1e-12)
    scale = (1 - alpha) * a["params"]["logit_scale"] + alpha * b["params"]["logit_scale"]
    np.testing.assert_allclose(between["params"]["logit_scale"], scale, atol=1e-12)
    again = mixed(a, between, beta)["params"]["a"]
    np.testing.assert_allclose(again, mixed(a, b, alpha * beta)["params"]["a"], atol=1e-11)


def test_bfloat16_is_summed_in_float32_and_the_wider_type_stays():
    low, high = np.full(3, 1.0, jnp.bfloat16), np.full(3, 1.003, np.float32)
    assert combined([0.5, 0.5], [high, low]).dtype == np.float32
    total = combined([1.0, 1.0, -1.0], [np.full(1, 256, jnp.bfloat16), low[:1], low[:1]])
    assert total.dtype == jnp.bfloat16 and total == 256
    assert (combined([0.0, 0.0], [low, low]) == 0).all()
