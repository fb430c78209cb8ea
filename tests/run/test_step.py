"""The step over views and options; spread over devices it is in test_parallel.py."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.state import Fixed, Objective, State, fresh_state
from cleanclip_jax.run.step import compute_loss, make_step

MODELS = {
    # Two stages of one block: compiling convolutions is what these tests spend their time on.
    "resnet": replace(VARIANTS["RN-test"], vision_layers=(1, 1), image_size=32),
    "vit": VARIANTS["ViT-test"],
}
BOTH = {"cross_modal": 1.0, "in_modal": 1.0}


def some_batch(size=8, views=2, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, views, 32, 32, 3), dtype=np.uint8)
    tokens = rng.integers(1, 299, (size, views, 6)).astype(np.int32)
    tokens[:, :, -1] = 299
    return {"images": images, "tokens": tokens}


def loss_and_gradients(model, variables, batch):
    images = jnp.asarray(batch["images"]).astype(model.compute.dtype) / 255

    @jax.jit
    def compute(params, stats, images, tokens):
        def run(params):
            state = State(jnp.int32(0), params, stats, None)
            return compute_loss(model, Objective(BOTH), state, images, tokens)

        return jax.value_and_grad(run, has_aux=True)(params)

    stats = variables.get("batch_stats", {})
    (loss, (_, new_stats, _)), gradients = compute(
        variables["params"], stats, images, batch["tokens"]
    )
    return jax.tree.map(np.asarray, (loss, gradients, new_stats))


@pytest.mark.slow
def test_permuting_the_pairs_permutes_nothing_but_the_pairs():
    """The gradients of the weights are sums over the batch: its order can't matter."""
    with jax.enable_x64(True):
        model = build("ViT-test", dtype="float64", param_dtype="float64")
        variables = init(model, jax.random.key(0))
        batch, order = some_batch(), np.array([5, 2, 7, 0, 1, 6, 3, 4])
        shuffled = {name: values[order] for name, values in batch.items()}
        ours = loss_and_gradients(model, variables, batch)
        theirs = loss_and_gradients(model, variables, shuffled)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_separate_views_differ_by_batch_norm_alone():
    batch = {name: jnp.asarray(values) for name, values in some_batch().items()}
    for kind, same in (("resnet", False), ("vit", True)):
        model = build(MODELS[kind])
        variables = init(model, jax.random.key(0))

        @partial(jax.jit, static_argnums=0)
        def loss(separate, model=model, variables=variables):
            objective = Objective(BOTH, separate_views=separate)
            state = State(jnp.int32(0), variables["params"], variables.get("batch_stats", {}), None)
            return compute_loss(model, objective, state, batch["images"], batch["tokens"])[0]

        assert np.allclose(loss(False), loss(True), rtol=1e-5) == same


@pytest.mark.slow
def test_a_term_of_weight_zero_needs_no_views_and_is_not_reported():
    model = build("ViT-test")
    optimizer = optax.sgd(0.1)
    state = fresh_state(init(model, jax.random.key(0)), optimizer)
    objective = Objective({"cross_modal": 2.0, "in_modal": 0.0})
    step = make_step(model, optimizer, lambda step: jnp.float32(0.1), objective)
    batch = {name: jnp.asarray(values) for name, values in some_batch(views=1).items()}
    state, metrics = step(state, Fixed(), batch)
    assert set(metrics) == {"loss", "cross_modal", "logit_scale", "gradient_norm", "learning_rate"}
    assert float(metrics["loss"]) == pytest.approx(2 * float(metrics["cross_modal"]))
    first = float(metrics["loss"])
    for _ in range(5):
        state, metrics = step(state, Fixed(), batch)
    assert float(metrics["loss"]) < first and int(state.step) == 6
