"""However the step is spread out, it is the same step: over devices, in chunks, in a ring.

Each way is held against the plain step on one device, in float64. Eight fake devices
(tests/conftest.py).
"""

import math
import re
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cleanclip_jax import sharding
from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.terms import init_head
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.run.state import Fixed, Objective, State, fresh_state
from cleanclip_jax.run.step import compute_loss, make_step
from cleanclip_jax.sharding import make_mesh, place_batch, place_state

# As small as can be: compiling is what these tests spend their time on.
SMALL: dict[str, Any] = {"context_length": 6, "vocab_size": 80}
RESNET = Variant(16, 32, (1,), 8, 0, 0, 64, 1, **SMALL)
MODELS = {
    "vit": Variant(16, 16, 1, 64, 8, 0, 64, 1, **SMALL),
    "resnet": RESNET,
    "resnet in groups": RESNET,  # of a pair each: they lie within a chunk however it is cut
}
PAIRS = 16
BOTH = {"cross_modal": 1.0, "in_modal": 1.0}
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
SPLIT = 512  # elements: in so small models, arrays of fewer are copied


@pytest.fixture(autouse=True)
def split_small_arrays(monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", SPLIT)


class Ran(NamedTuple):
    state: State  # after two steps, on the host
    metrics: list[dict]
    program: str
    memory: int  # bytes on a device, beside what goes in and comes out


@cache
def model_and_variables(kind):
    groups = PAIRS if kind == "resnet in groups" else 1
    model = build(MODELS[kind], dtype="float64", param_dtype="float64", bn_groups=groups)
    variables = init(model, jax.random.key(0))
    head = init_head(jax.random.key(1), model.variant.features, 512, "float64")
    return model, {**variables, "params": {**variables["params"], "head": head}}


def some_batch(kind, seed):
    rng, size = np.random.default_rng(seed), MODELS[kind].image_size
    images = rng.integers(0, 256, (PAIRS, 2, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, 79, (PAIRS, 2, 6)).astype(np.int32)
    tokens[:, :, -1] = 79
    return {"images": images, "tokens": tokens, "labels": np.arange(PAIRS, dtype=np.int32)}


@cache
def two_steps(kind, data=1, fsdp=1, weights=(1.0, 1.0, 0.0), **options):
    with jax.enable_x64(True):
        model, variables = model_and_variables(kind)
        objective = Objective(
            dict(zip(("cross_modal", "in_modal", "classification"), weights, strict=True)),
            **options,
        )
        mesh = make_mesh(data, fsdp)
        step: Any = make_step(model, OPTIMIZER, lambda _: jnp.float32(0.1), objective, mesh=mesh)
        start = fresh_state(jax.tree.map(jnp.copy, variables), OPTIMIZER, objective)
        state, metrics = place_state(mesh, start), []
        places = jax.tree.map(lambda x: x.sharding, state)
        check_split(state, fsdp)
        batches = [place_batch(mesh, some_batch(kind, seed)) for seed in (0, 1)]
        compiled = step.lower(state, Fixed(), batches[0]).compile()
        for batch in batches:
            given = state
            # Compiled for the first state's places alone: the second has to come back to them.
            state, found = compiled(given, Fixed(), batch)
            assert all(x.is_deleted() for x in jax.tree.leaves(given)), "the state is donated"
            assert jax.tree.map(lambda x: x.sharding, state) == places
            metrics.append({name: float(value) for name, value in found.items()})
    memory = compiled.memory_analysis().temp_size_in_bytes
    return Ran(jax.tree.map(np.asarray, state), metrics, compiled.as_text(), memory)


def check_split(state, fsdp):
    split = 0
    for x in jax.tree.leaves((state.params, state.opt_state)):
        parts = {shard.data.size for shard in x.addressable_shards}
        # Each large array has a dimension that divides by 8.
        assert parts == {x.size // fsdp if x.size >= SPLIT else x.size}
        split += x.size >= SPLIT
    assert split > 6


def close(one, other):
    paths = jax.tree_util.tree_leaves_with_path((one.state, one.metrics))
    for (path, a), b in zip(paths, jax.tree.leaves((other.state, other.metrics)), strict=True):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=where)


def gathers(program):
    """The shapes that all-gathers give, as tuples."""
    found = re.findall(r"= \(?[^=]*?\[([\d,]*)\][^=\[]*? all-gather(?:-start)?\(", program)
    assert len(found) == len(re.findall(r" all-gather(?:-start)?\(", program))
    return [tuple(map(int, shape.split(","))) for shape in found]


RING, TWO = {"ring": True}, {"chunks": 2}
WAYS = [
    pytest.param("vit", 1, 1, {**RING, "chunks": 4}, marks=pytest.mark.slow),
    pytest.param("vit", 2, 1, TWO, marks=pytest.mark.slow),
    pytest.param("vit", 4, 1, RING, marks=pytest.mark.faults),
    ("vit", 8, 1, {}),
    pytest.param("vit", 1, 2, RING, marks=pytest.mark.slow),
    pytest.param("vit", 1, 4, TWO, marks=pytest.mark.faults),
    pytest.param("vit", 1, 8, {}, marks=pytest.mark.slow),
    pytest.param("vit", 2, 4, {**RING, **TWO}, marks=pytest.mark.slow),
    pytest.param("resnet", 8, 1, {}, marks=pytest.mark.slow),
    pytest.param("resnet in groups", 2, 4, TWO, marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("kind", "data", "fsdp", "options"), WAYS)
def test_two_steps_end_where_one_device_ends(kind, data, fsdp, options):
    """Loss, gradients (the optimizer's trace), batch statistics and weights."""
    plain, spread = two_steps(kind), two_steps(kind, data, fsdp, **options)
    assert plain.state.params["logit_scale"].dtype == np.float64 and plain.state.step == 2
    close(spread, plain)
    devices, found = data * fsdp, gathers(spread.program)
    embeddings = (PAIRS, 4, MODELS[kind].features)
    # The embeddings travel once, or in a ring never; the losses and their gradients need no other
    # gather, and images none.
    once = 0 if devices == 1 or options.get("ring") else 1
    assert found.count(embeddings) == once
    found = [shape for shape in found if shape != embeddings]
    # Each parameter that is split is gathered, once.
    used = {name: x for name, x in plain.state.params.items() if name != "head"}
    split = [x.shape for x in jax.tree.leaves(used) if x.size >= SPLIT]
    assert sorted(found) == (sorted(split) if fsdp > 1 else [])
    assert "all-to-all" not in spread.program
    hops = "collective-permute" in spread.program
    assert hops == bool(options.get("ring") and devices > 1)


@pytest.mark.slow
def test_separate_views_in_chunks():
    """The running statistics see one view after the other, each in parts."""
    with jax.enable_x64(True):
        model, variables = model_and_variables("resnet in groups")
        batch = {name: jnp.asarray(values) for name, values in some_batch("resnet", 0).items()}

        @partial(jax.jit, static_argnums=(0, 1))
        def forward(chunks, separate):
            objective = Objective(BOTH, separate_views=separate, chunks=chunks)
            state = State(jnp.int32(0), variables["params"], variables["batch_stats"], None)
            return compute_loss(model, objective, state, batch["images"], batch["tokens"])

        plain, parts, joint = forward(1, True), forward(2, True), forward(1, False)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert abs(float(joint[0]) - float(plain[0])) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["visual", "head"])
def test_a_head_and_frozen_towers_in_chunks_and_split(trainable):
    weights = (0.0 if trainable == "head" else 1.0, 0.0, 1.0)
    plain = two_steps("vit", weights=weights, trainable=trainable)
    way = {"ring": True, "chunks": 2, "trainable": trainable}
    close(two_steps("vit", 2, 2, weights=weights, **way), plain)
    _, variables = model_and_variables("vit")
    np.testing.assert_array_equal(
        plain.state.params["text"]["token_embedding"],
        variables["params"]["text"]["token_embedding"],
    )


@pytest.mark.slow
def test_statistics_of_a_frozen_tower_stay_bit_for_bit():
    """The mean over three chunks of a number need not be the number."""
    with jax.enable_x64(True):
        model, variables = model_and_variables("resnet")
        rng = np.random.default_rng(0)
        stats = jax.tree.map(lambda x: rng.random(x.shape), variables["batch_stats"])
        objective = Objective({"classification": 1.0}, trainable="head", chunks=3)
        start = fresh_state({**variables, "batch_stats": stats}, OPTIMIZER, objective)
        step = make_step(model, OPTIMIZER, lambda _: jnp.float32(0.1), objective)
        batch = {name: jnp.asarray(x[:15]) for name, x in some_batch("resnet", 0).items()}
        after = step(jax.tree.map(jnp.copy, start), Fixed(), batch)[0].batch_stats
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(stats), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_chunks_take_less_memory():
    plain, four = two_steps("vit"), two_steps("vit", ring=True, chunks=4)
    images = math.prod((PAIRS, 2, 16, 16, 3)) * 8
    assert four.memory < plain.memory / 2 and plain.memory > 4 * images


def test_chunks_that_would_cut_a_group_of_batch_norm_are_refused():
    def made(chunks, data, trainable="all", **options):
        model = build(MODELS["resnet"], **options)
        objective = Objective(BOTH, chunks=chunks, trainable=trainable)
        make_step(model, OPTIMIZER, lambda _: jnp.float32(0.1), objective, mesh=make_mesh(data))

    with pytest.raises(UserError, match="bn_groups to be a multiple of 16, not 8, for"):
        made(2, 8, bn_groups=8)
    with pytest.raises(
        UserError, match=r"or config.model.bn_frozen=True, or config.train.chunks=1"
    ):
        made(2, 1)
    made(2, 8, bn_groups=16)
    made(2, 8, bn_frozen=True)
    made(2, 8, trainable="head")
    made(1, 8)
