"""DECREE against its own run: the first step, the search, and the state machine by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import relative

from cleanclip_jax.detect.decree import (
    EPSILON,
    Progress,
    Rule,
    begin,
    epochs_of,
    objective,
    search,
    squashed,
)

MEAN, STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.201])
RUN = Rule(threshold=0.9, least=1e-5, stop=10)


def to_model(x):
    mean, std = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, STD))
    return (x / 255 - mean) / std


def encode(variables, x):
    """tanh of a product with the means of 4 x 4 blocks, plus a bias."""
    b, s, _, c = x.shape
    pooled = x.reshape(b, s // 4, 4, s // 4, 4, c).mean((2, 4))
    flat = pooled.transpose(0, 3, 1, 2).reshape(b, -1)
    return jnp.tanh(flat @ variables["weights"].T + variables["bias"][None])


@pytest.fixture(scope="module")
def run(golden):
    g = {name.removeprefix("decree/"): x for name, x in golden("inversion").items()}
    variables = {
        "weights": jnp.asarray(g["run/encoder"], jnp.float32),
        "bias": jnp.asarray(g["run/bias"], jnp.float32),
    }
    pictures = g["run/pictures"].repeat(4, 1).repeat(4, 2)
    params = {
        "mask": jnp.asarray(g["first/mask"], jnp.float32),
        "pattern": jnp.asarray(g["first/patch"], jnp.float32),
    }
    return g, variables, pictures, params, objective(encode, squashed(to_model))


def test_the_first_step_is_the_originals(run):
    g, variables, pictures, params, inversion = run
    images = jnp.asarray(pictures[g["run/order"][0]])
    weights = {"alike": -1.0, "area": 1e-3}

    def loss(params):
        values = inversion.values(variables, params, images, {})
        return sum(weights[name] * value for name, value in values.items())

    gradients = jax.jit(jax.grad(loss))(params)
    assert relative(gradients["mask"], g["first/mask_grad"]) < 1e-5
    assert relative(gradients["pattern"], g["first/patch_grad"]) < 1e-5
    moments = inversion.adam.init(params)
    after, _, _ = inversion.step(variables, params, moments, images, {}, weights, 0.5)
    assert relative(after["mask"], g["first/mask_1"]) < 2e-5
    assert relative(after["pattern"], g["first/patch_1"]) < 2e-5


def test_a_search_is_the_originals_to_its_early_stop(run):
    g, variables, pictures, params, inversion = run
    order = g["run/order"].reshape(-1, 3, 8)  # three batches an epoch
    seen = []
    epochs = ((jnp.asarray(pictures[rows]) for rows in epoch) for epoch in order)
    patch = search(inversion, variables, params, epochs, RUN, each=lambda *x: seen.append(x))
    cosines, sizes = np.array(seen).T
    np.testing.assert_allclose(cosines[:10], g["run/cos"][:10], rtol=1e-4)
    np.testing.assert_allclose(sizes[:10], g["run/reg"][:10], rtol=1e-4)
    assert patch.size is not None and patch.steps == len(g["run/cos"])
    assert patch.size == pytest.approx(float(g["run/result"]), rel=1e-3)
    assert patch.share == pytest.approx(patch.size / (3 * 32 * 32))
    assert 3 * patch.mask.sum() == pytest.approx(patch.size, rel=1e-5)


@pytest.mark.parametrize("case, rule", [("run", RUN), ("strict", Rule(0.99, least=1e-5, stop=10))])
def test_the_state_machine_is_the_originals_step_by_step(golden, case, rule):
    g = {name.removeprefix(f"decree/{case}/"): x for name, x in golden("inversion").items()}
    progress = Progress(rule)
    counters = {"best": "best", "early_stop_count": "stale", "up_count": "up", "down_count": "down"}
    for step, (cosine, size) in enumerate(zip(g["cos"], g["reg"], strict=True)):
        assert progress.weight == pytest.approx(g["lambda"][step], rel=1e-12), step
        for theirs, ours in counters.items():
            if theirs in g:
                expected = g[theirs][step]
                expected = float("inf") if expected == 1e7 else expected
                assert getattr(progress, ours) == expected, (step, theirs)
        progress.follow(float(cosine), float(size))


def test_a_weight_below_the_least_that_always_succeeds_begins_anew():
    progress = Progress(Rule(first=1e-3, least=1e-3, patience=100))
    progress.weight = 1e-4
    for _ in range(11):
        progress.follow(1.0, 5.0)
    assert progress.weight == 1e-3


def test_masks_begin_as_drawn_and_epochs_have_whole_batches():
    params = begin(jax.random.key(0), 8)
    share = np.tanh(params["mask"]) / (2 - EPSILON) + 0.5
    assert params["pattern"].shape == (8, 8, 3) and 0.3 < share.mean() < 0.7
    pictures = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(3, 3)
    epochs = [[batch[:, 0, 0, 0] for batch in epoch] for epoch in epochs_of(pictures, 4, 5, 0)]
    assert [len(epoch) for epoch in epochs] == [2, 2, 1]
    assert len(set(np.concatenate(epochs[0]))) == 8
