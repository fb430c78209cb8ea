"""InverTune's tuning, against the original's own steps, and what refuses to be an artefact."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.openai_layout import variables

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.align import norm
from cleanclip_jax.losses.inverted import NEURONS, TARGET, Inverted
from cleanclip_jax.models.clip import build
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.run.optimizer import clipped
from cleanclip_jax.run.state import Fixed, Objective, fresh_state
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import copied_over, make_mesh, place_batch, place_state
from cleanclip_jax.start.model import shapes_of

NUMBERS = Variant(16, 16, 1, 32, 8, 0, 32, 1, 6, vocab_size=80, vision_head_width=16)
FACTS = {"target": {"index": 0, "name": "seven"}, "start": {"path": "run", "digest": "1"}}


def nhwc(x):
    return jnp.asarray(np.moveaxis(np.asarray(x), -3, -1))


@pytest.mark.slow
def test_three_steps_are_the_originals(golden):
    """With its own critical units: its k-means cuts 15 of them otherwise."""
    g, towers, model = golden("inversion"), variables(golden, "rn"), build("RN-test")
    prefix = "invertune/tuning"
    artefact: dict[str, Any] = {
        name: nhwc(g[f"{prefix}/{part}"])
        for name, part in (("mask", "mask"), ("pattern", "trigger"))
    }
    artefact["critical"] = {f"layer{i}": nhwc(g[f"{prefix}/neurons_{i}"]) for i in (1, 2, 3)}
    start = jax.tree.map(jnp.array, towers)
    rate = optax.cosine_decay_schedule(2e-6, 100, 1e-7 / 2e-6)
    optimizer = clipped(optax.adamw(rate, weight_decay=1e-4), 1.0)
    objective = Objective(
        {"align": 1.0, "preserve": 0.5}, options={"align": {"inverted": ""}}, trainable="visual"
    )
    step = make_step(model, optimizer, rate, objective)
    state = fresh_state(towers, optimizer, objective)
    batch = {"images": nhwc(golden("rn_three_steps")["images_nchw"])[:, None]}
    batch["tokens"] = jnp.zeros((len(batch["images"]), 1, 16), jnp.int32)
    losses = []
    for _ in range(3):
        state, metrics = step(state, Fixed(start, artefacts={"align": artefact}), batch)
        losses.append([float(metrics[name]) for name in ("align", "preserve", "loss")])
    np.testing.assert_allclose(losses, g[f"{prefix}/losses"], rtol=1e-5)


def test_a_norm_at_zero_has_a_gradient_of_zero():
    np.testing.assert_array_equal(jax.grad(norm)(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_allclose(jax.grad(norm)(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def an_inverted(side=4):
    picture = np.random.default_rng(0).random((side, side, 3)).astype(np.float32)
    return Inverted(FACTS, picture, picture, {"layer1": picture > 0.5})


def test_an_inverted_trigger_comes_back_as_it_was_written(tmp_path):
    one = an_inverted()
    one.save(tmp_path)
    again = Inverted.load(tmp_path)
    assert again.digest == one.digest and again.facts == FACTS
    np.testing.assert_array_equal(again.critical["layer1"], one.critical["layer1"])


@pytest.mark.parametrize("damage", ["no folder", "torn", "floats", "facts"])
def test_what_is_no_inverted_trigger_is_one_line(tmp_path, damage):
    an_inverted().save(tmp_path)
    if damage == "no folder":
        (tmp_path / TARGET).unlink()
    elif damage == "torn":
        (tmp_path / NEURONS).write_bytes((tmp_path / NEURONS).read_bytes()[:50])
    elif damage == "floats":
        np.savez(tmp_path / NEURONS, layer1=np.ones(3))
    else:
        (tmp_path / TARGET).write_text("{}")
    with pytest.raises(UserError, match=str(tmp_path)):
        Inverted.load(tmp_path)


@pytest.mark.slow
def test_tuning_is_the_same_over_devices_and_in_chunks():
    with jax.enable_x64(True):
        model = build(NUMBERS, dtype="float64", param_dtype="float64")
        rng = np.random.default_rng(0)
        towers = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape), shapes_of(model))
        start = jax.tree.map(lambda x: x + 0.01 * rng.standard_normal(x.shape), towers)
        artefact: dict[str, Any] = {name: rng.random((16, 16, 3)) for name in ("mask", "pattern")}
        artefact["critical"] = {"block1": rng.random((5, 32)) > 0.5}
        batch = {
            "images": rng.standard_normal((8, 1, 16, 16, 3)),
            "tokens": np.zeros((8, 1, 6), np.int32),
        }
        after = []
        for devices, chunks in ((1, 1), (2, 2)):
            mesh, optimizer = make_mesh(devices, devices), optax.sgd(0.1)
            options = {"align": {"inverted": ""}}
            objective = Objective(
                {"align": 1.0, "preserve": 0.5}, options, trainable="visual", chunks=chunks
            )
            step = make_step(model, optimizer, lambda _: 0.1, objective, mesh=mesh)
            state = place_state(
                mesh, fresh_state(jax.tree.map(jnp.asarray, towers), optimizer, objective)
            )
            arrays = jax.device_put({"align": artefact}, copied_over(mesh))
            fixed = Fixed(place_state(mesh, jax.tree.map(jnp.asarray, start)), artefacts=arrays)
            state, metrics = step(state, fixed, place_batch(mesh, batch))
            after.append(jax.device_get((state.params, metrics["loss"])))
        for one, other in zip(*map(jax.tree.leaves, after), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_clipped_optimizer_has_the_same_state_and_shorter_gradients():
    plain = optax.sgd(1.0)
    params, gradients = jnp.zeros(2), jnp.array([3.0, 4.0])
    state = clipped(plain, 1.0).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params))
    updates, _ = clipped(plain, 1.0).update(gradients, state, params)
    np.testing.assert_allclose(np.asarray(updates), [-0.6, -0.8], rtol=1e-6)
    unclipped, _ = clipped(plain, None).update(gradients, state)
    np.testing.assert_allclose(np.asarray(unclipped), [-3, -4])
