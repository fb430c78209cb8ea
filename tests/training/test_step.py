"""The step over devices, views and options. Eight fake devices (tests/conftest.py)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.sharding import check_batch, make_mesh, place_batch, place_state
from cleanclip_jax.training.step import Objective, fresh_state, make_step, objective

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


def loss_and_gradients(model, variables, devices, batch, **options):
    mesh = make_mesh(devices)
    placed = place_batch(mesh, batch)
    images = placed["images"].astype(model.dtype) / 255

    @jax.jit
    def compute(params, stats, images, tokens):
        run = partial(objective, model, Objective(BOTH, **options), mesh=mesh)
        return jax.value_and_grad(run, has_aux=True)(params, stats, images, tokens)

    params, stats = place_state(mesh, (variables["params"], variables.get("batch_stats", {})))
    lowered = compute.lower(params, stats, images, placed["tokens"]).compile()
    (loss, (_, new_stats)), gradients = compute(params, stats, images, placed["tokens"])
    return jax.tree.map(np.asarray, (loss, gradients, new_stats)), lowered.as_text() or ""


@pytest.mark.parametrize("kind", MODELS)
def test_one_device_equals_eight(kind):
    with jax.enable_x64(True):
        model = build(MODELS[kind], dtype="float64", param_dtype="float64")
        variables = init(model, jax.random.key(0))
        one, _ = loss_and_gradients(model, variables, 1, some_batch())
        eight, program = loss_and_gradients(model, variables, 8, some_batch())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    # The embeddings travel once; the losses and their gradients need no other gather.
    assert program.count(" all-gather(") + program.count(" all-gather-start(") == 1


def test_two_steps_end_at_the_same_weights_on_one_device_and_eight():
    """The whole step: placed state and batch in, updated state out, placed as it came."""
    with jax.enable_x64(True):
        model = build("ViT-test", dtype="float64", param_dtype="float64")
        variables = init(model, jax.random.key(0))
        optimizer = optax.sgd(0.01)
        ends = []
        for devices in (1, 8):
            mesh = make_mesh(devices)
            step = make_step(
                model, optimizer, lambda _: jnp.float32(0.01), Objective(BOTH), mesh=mesh
            )
            state = place_state(mesh, fresh_state(jax.tree.map(jnp.copy, variables), optimizer))
            for seed in (0, 1):
                state, _ = step(state, place_batch(mesh, some_batch(seed=seed)))
            assert int(state.step) == 2
            assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
            ends.append(jax.tree.map(np.asarray, state.params))
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_permuting_the_pairs_permutes_nothing_but_the_pairs():
    """The gradients of the weights are sums over the batch: its order can't matter."""
    with jax.enable_x64(True):
        model = build("ViT-test", dtype="float64", param_dtype="float64")
        variables = init(model, jax.random.key(0))
        batch, order = some_batch(), np.array([5, 2, 7, 0, 1, 6, 3, 4])
        shuffled = {name: values[order] for name, values in batch.items()}
        ours, _ = loss_and_gradients(model, variables, 1, batch)
        theirs, _ = loss_and_gradients(model, variables, 1, shuffled)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_separate_views_differ_by_batch_norm_alone():
    batch = some_batch()
    for kind, same in (("resnet", False), ("vit", True)):
        model = build(MODELS[kind])
        variables = init(model, jax.random.key(0))
        joint, _ = loss_and_gradients(model, variables, 1, batch)
        apart, _ = loss_and_gradients(model, variables, 1, batch, separate_views=True)
        assert np.allclose(joint[0], apart[0], rtol=1e-5) == same


def test_a_term_of_weight_zero_needs_no_views_and_is_not_reported():
    model = build("ViT-test")
    optimizer = optax.sgd(0.1)
    state = fresh_state(init(model, jax.random.key(0)), optimizer)
    asked = Objective({"cross_modal": 2.0, "in_modal": 0.0})
    step = make_step(model, optimizer, lambda step: jnp.float32(0.1), asked)
    batch = {name: jnp.asarray(values) for name, values in some_batch(views=1).items()}
    state, metrics = step(state, batch)
    assert set(metrics) == {"loss", "cross_modal", "logit_scale", "gradient_norm", "learning_rate"}
    assert float(metrics["loss"]) == pytest.approx(2 * float(metrics["cross_modal"]))
    first = float(metrics["loss"])
    for _ in range(5):
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < first and int(state.step) == 6


def test_a_batch_that_does_not_divide_is_one_line():
    with pytest.raises(UserError, match="12 does not divide over 8 devices: take 8 or 16"):
        check_batch(12, make_mesh(8))
    with pytest.raises(UserError, match="there are 8 devices"):
        make_mesh(9)
