"""The ring against the matrix: values, gradients, precision and memory. Eight fake devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.losses import ring
from cleanclip_jax.losses.compare import PAIRS, gathered, normalise_rows
from cleanclip_jax.losses.ring import ring_log_sum_exp, ringed
from cleanclip_jax.losses.terms import Context, cross_modal, in_modal
from cleanclip_jax.sharding import copied_over, make_mesh, split_over


def some_rows(dtype, count=40, alike=0.0):
    """Queries, keys and a cotangent. `alike` as 1 makes each query its key."""
    values = np.random.default_rng(0).normal(size=(2, count, 8))
    values[0] = alike * values[1] + (1 - alike) * values[0]
    weights = np.random.default_rng(1).normal(size=count)
    return [*(normalise_rows(jnp.asarray(x, dtype)) for x in values), jnp.asarray(weights, dtype)]


def whole(queries, keys, scale):
    return jax.nn.logsumexp(scale * queries @ keys.T, -1)


def with_gradients(function, scale, queries, keys, weights):
    @jax.jit
    def both(queries, keys, scale, weights):
        value, pull = jax.vjp(function, queries, keys, scale)
        return value, *pull(weights)

    return both(queries, keys, scale, weights)


@pytest.mark.parametrize(
    "shape",
    [
        None,
        *(
            pytest.param(shape, marks=pytest.mark.slow)
            for shape in ((1, 1), (2, 1), (8, 1), (1, 4))
        ),
        (2, 4),
    ],
)
def test_the_ring_equals_the_matrix(shape, monkeypatch):
    monkeypatch.setattr(ring, "TILE", 3)  # which divides no device's rows
    mesh = None if shape is None else make_mesh(*shape)
    with jax.enable_x64(True):
        rows, scale = some_rows("float64"), jnp.float64(20.0)
        expected = with_gradients(whole, scale, *rows)
        if mesh is not None:
            rows = jax.device_put(rows, split_over(mesh))

        @jax.jit
        def found(*rows):
            return with_gradients(lambda *x: ring_log_sum_exp(*x, mesh), scale, *rows)

        for a, b in zip(found(*rows), expected, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "alike", [0.0, *(pytest.param(alike, marks=pytest.mark.slow) for alike in (0.9, 1.0))]
)
def test_float32_is_enough_at_the_largest_scale(alike):
    *rows, weights = some_rows("float32", alike=alike)
    rows = [*rows, jnp.abs(weights)]  # as a mean's: no cancelling in the scale's gradient
    mesh = make_mesh(2, 4)
    ours = with_gradients(lambda *x: ring_log_sum_exp(*x, mesh), jnp.float32(100.0), *rows)
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(x), "float64") for x in rows]
        theirs = with_gradients(whole, jnp.float64(100.0), *exact)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == np.float32
        # The logits are as exact as float32 is at 100, which the gradients multiply by 100.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5 * max(1, np.abs(b).max()))


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_not_its_square():
    """Of both terms with their gradients, over 8 devices; compiled only."""
    mesh = make_mesh(8)

    def loss(stacked, scale, in_a_ring):
        units = {name: stacked[:, i] for i, name in enumerate(PAIRS)}
        info_nce = (ringed if in_a_ring else gathered)(units, scale, mesh)
        context = Context({}, units, info_nce, {}, None, None, jnp.int32(0), {})
        return cross_modal(context)[0] + in_modal(context)[0]

    def memory(pairs, in_a_ring):
        rows = jax.ShapeDtypeStruct((pairs, 4, 512), jnp.float32, sharding=split_over(mesh))
        scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=copied_over(mesh))
        compute = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
        found: Any = compute.lower(rows, scale, in_a_ring).compile().memory_analysis()
        return found.temp_size_in_bytes

    ours, half = memory(32768, True), memory(16384, True)
    assert ours < memory(32768, False) / 4
    assert ours < 2.1 * half
