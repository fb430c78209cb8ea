"""RoCLIP's term against the published code's outputs, and what must hold of a pool."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import relative

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import gathered, normalise_rows
from cleanclip_jax.losses.pools import feed, look_up, nearest, new_pool
from cleanclip_jax.losses.ring import ringed
from cleanclip_jax.losses.terms import TERMS, Context


def value(name: str, units: Any, scale: Any, memory: Any, comparing: Any = gathered, **options):
    """A term's loss and its memory after the step."""
    counts = options.pop("counts", True)
    compare = comparing(units, jnp.exp(scale))
    given = ({}, units, compare, {}, None, memory, jnp.int32(0))
    context = Context(*given, metrics={}, counts=counts)
    return TERMS[name].loss(context, **options)


def pool_of(rows: Any) -> dict[str, jax.Array]:
    return {"rows": jnp.asarray(rows), "next": jnp.int32(0)}


@pytest.mark.parametrize("comparing", [gathered, ringed])
@pytest.mark.parametrize("code", ["official", "detect_clip"])
def test_four_matched_steps_equal_the_published_codes(golden, code, comparing):
    """Indices, losses, gradients, pools and pointers; the ring wraps in the third."""
    g = golden("pools")
    scale, pool = jnp.float32(g["roclip/logit_scale"]), pool_of(g[f"roclip/{code}/pool_start"])

    @jax.jit
    def step(units, pool):
        def loss(units, scale):
            return value("matched", units, scale, pool, comparing, update="matched")

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(units, scale)

    for i in range(4):
        expected = {key: g.get(f"roclip/{code}/{key}_{i}") for key in KEYS}
        units = {name: jnp.asarray(g[f"roclip/{name}_{i}"]) for name in ("image", "text")}
        assert look_up(pool["rows"], units["image"]).tolist() == expected["index"].tolist()
        (loss, pool), (by_unit, by_scale) = step(units, pool)
        assert float(loss) == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert relative(by_unit["image"], expected["grad_image"]) <= 1e-5
        assert not np.asarray(by_unit["text"]).any()  # there, and zero
        assert float(by_scale) == pytest.approx(float(expected["grad_logit_scale"]), rel=1e-4)
        np.testing.assert_array_equal(pool["rows"], expected["pool"])
        assert pool["next"] == expected["pointer"]


KEYS = ("index", "loss", "grad_image", "grad_logit_scale", "pool", "pointer")


@pytest.mark.parametrize("every", [1, 2, 3])
def test_matched_epochs_are_the_published_codes(golden, every):
    epochs = golden("pools")[f"roclip/official/pooled_epochs_1_to_12/every_{every}"]
    for epoch, pooled in enumerate(epochs.tolist(), 1):
        resting = TERMS["matched"].resting(epoch, every=every)
        assert resting == ({"cross_modal"} if pooled else {"matched"})


def some_units(seed: int, count: int = 4) -> dict[str, jax.Array]:
    rows = np.random.default_rng(seed).normal(size=(2, count, 8)).astype(np.float32)
    return {name: normalise_rows(jnp.asarray(rows[i])) for i, name in enumerate(("image", "text"))}


@pytest.mark.slow
def test_until_the_pool_is_full_it_is_mmcl_and_gradients_reach_both_towers():
    memory, scale = TERMS["matched"].memory(8, pool=10), jnp.float32(2.0)
    for seed in range(5):
        units = some_units(seed)
        loss, gradient = jax.value_and_grad(
            lambda units, memory=memory: value("matched", units, scale, memory)[0]
        )(units)
        plain = value("cross_modal", units, scale, None)[0]
        full = seed >= 3  # of ten rows three batches of four; the third loses two of its rows
        assert (float(loss) == pytest.approx(float(plain), rel=1e-6)) != full
        assert np.asarray(gradient["text"]).any() != full
        memory = value("matched", units, scale, memory)[1]
        assert memory["next"] == [4, 8, 0, 4, 8][seed]


def test_a_pool_is_fed_in_every_step_or_in_matched_ones():
    units, scale = some_units(0), jnp.float32(2.0)
    memory = TERMS["matched"].memory(8, pool=8)
    rests = value("matched", units, scale, memory, counts=False)[1]
    np.testing.assert_array_equal(rests["rows"][:4], units["text"])
    rests = value("matched", units, scale, memory, counts=False, update="matched")[1]
    assert not np.asarray(rests["rows"]).any() and rests["next"] == 0


def test_ties_go_to_the_lowest_index_and_empty_rows_never_match():
    rows = jnp.asarray([[0, 0], [0, 3.0], [0, 1.0], [-1.0, 0]])
    queries = jnp.asarray([[0, 1.0], [0.6, -0.8], [1.0, 0]])
    # Of all whose cosine is 0 or less, not the empty row 0, whose product is largest.
    assert look_up(rows, queries).tolist() == [1, 3, 1]


def test_noise_is_drawn_from_the_seed():
    start = TERMS["matched"].memory
    noise = start(64, seed=1, pool=50, start="noise")["rows"]
    assert abs(float(jnp.linalg.norm(noise, axis=1).mean()) - 8) < 0.3
    np.testing.assert_array_equal(noise, start(64, seed=1, pool=50, start="noise")["rows"])
    assert (noise != start(64, seed=2, pool=50, start="noise")["rows"]).all()
    unit = new_pool(64, 50, "unit_noise", jax.random.key(0))["rows"]
    np.testing.assert_allclose(jnp.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_neighbours_are_as_they_lie_there():
    pool = pool_of([[0, 5.0], [2.0, 0]])
    queries = jnp.asarray([[1.0, 0], [0, 1.0]])
    np.testing.assert_array_equal(nearest(pool, queries, queries), [[2.0, 0], [0, 5.0]])
    assert feed(pool, queries)["next"] == 0


def test_a_pool_smaller_than_a_batch_is_one_line():
    with pytest.raises(UserError, match=r"matched\.pool is 8, less than .*batch_size 16"):
        TERMS["matched"].check(16, pool=8)


MODALITIES = ("image", "image_view", "text", "text_view")


@pytest.mark.parametrize("comparing", [gathered, ringed])
def test_three_in_modal_steps_equal_safeclips(golden, comparing):
    g = golden("pools")
    scale = jnp.float32(g["safeclip/logit_scale"])
    memory = {name: pool_of(g[f"safeclip/pool_{name}_start"]) for name in ("image", "text")}

    @jax.jit
    def step(units, memory):
        def loss(units, scale):
            return value("nearest_in_modal", units, scale, memory, comparing)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(units, scale)

    for i in range(3):
        units = {name: jnp.asarray(g[f"safeclip/{name}_{i}"]) for name in MODALITIES}
        for name in memory:
            index = g[f"safeclip/in_modal/index_{name}_{i}"].tolist()
            assert look_up(memory[name]["rows"], units[name]).tolist() == index
        (loss, memory), (by_unit, by_scale) = step(units, memory)
        assert float(loss) == pytest.approx(float(g[f"safeclip/in_modal/loss_{i}"]), rel=1e-5)
        for name in MODALITIES:
            expected = g[f"safeclip/in_modal/grad_{name}_{i}"]
            assert relative(by_unit[name], expected) <= 1e-5 if expected.any() else True
            assert expected.any() or not np.asarray(by_unit[name]).any()
        wanted = float(g[f"safeclip/in_modal/grad_logit_scale_{i}"])
        assert float(by_scale) == pytest.approx(wanted, rel=1e-5)
        for name, pool in memory.items():
            np.testing.assert_array_equal(pool["rows"], g[f"safeclip/in_modal/pool_{name}_{i}"])
            assert pool["next"] == g[f"safeclip/in_modal/pointer_{name}_{i}"]


@pytest.mark.parametrize(
    ("name", "case"), [("nearest_in_modal", "in_modal_no_pool"), ("crossed", "cross_modal")]
)
def test_empty_pools_and_the_crossed_term_equal_safeclips(golden, name, case):
    g = golden("pools")
    memory = TERMS[name].memory(12)
    units = {each: jnp.asarray(g[f"safeclip/{each}_0"]) for each in MODALITIES}
    compute = jax.value_and_grad(lambda u, s: value(name, u, s, memory)[0], (0, 1))
    loss, (by_unit, by_scale) = compute(units, jnp.float32(g["safeclip/logit_scale"]))
    assert float(loss) == pytest.approx(float(g[f"safeclip/{case}/loss"]), rel=1e-5)
    for each in MODALITIES:
        assert relative(by_unit[each], g[f"safeclip/{case}/grad_{each}"]) <= 1e-5
    wanted = float(g[f"safeclip/{case}/grad_logit_scale"])
    assert float(by_scale) == pytest.approx(wanted, rel=1e-5)


def test_pools_of_views_are_fed_where_their_term_counts():
    units = {name: row for name, row in zip(MODALITIES, 2 * [*some_units(0).values()], strict=True)}
    memory = TERMS["nearest_in_modal"].memory(8, seed=3, pool=4, start="noise")
    assert (memory["image"]["rows"] != memory["text"]["rows"]).all()
    rests = value("nearest_in_modal", units, jnp.float32(2.0), memory, counts=False)[1]
    np.testing.assert_array_equal(rests["text"]["rows"], memory["text"]["rows"])
    fed = value("nearest_in_modal", units, jnp.float32(2.0), memory)[1]
    np.testing.assert_array_equal(fed["text"]["rows"], units["text"])
    with pytest.raises(UserError, match=r"nearest_in_modal\.pool is 8, less than"):
        TERMS["nearest_in_modal"].check(16, pool=8)
