"""What a term may keep and be given: memory, the frozen start, a view that is a parameter."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.fault_runs import state
from helpers.small_run import small_config, train
from ml_collections import ConfigDict

from cleanclip_jax import keys
from cleanclip_jax.attacks.device_triggers import LEARNED, ON_DEVICE
from cleanclip_jax.attacks.triggers import TRIGGERS, Row
from cleanclip_jax.config_keys import KEYS, weight
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.losses.terms import TERMS, Term
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.run.clock import TIMED
from cleanclip_jax.run.recorder import Recorder
from cleanclip_jax.run.state import Fixed, Objective, fresh_state, make_objective
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import make_mesh, place_batch, place_state
from cleanclip_jax.start.start import load_start, open_start
from cleanclip_jax.start.store import Store

NUMBERS = Variant(16, 16, 1, 64, 8, 0, 64, 1, context_length=6, vocab_size=80)
PAIRS = 16


def some_batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (PAIRS, 1, 16, 16, 3), dtype=np.uint8)
    tokens = rng.integers(1, 79, (PAIRS, 1, 6)).astype(np.int32)
    tokens[:, :, -1] = 79
    return {"images": images, "tokens": tokens, "suspects": rng.random(PAIRS) < 0.3}


def pool_term(context: Any, rows: int = 24) -> tuple[jax.Array, Any]:
    """Images against their nearest captions in a pool of those seen before, which it then feeds."""
    pool, place = context.memory["rows"], context.memory["next"]
    similar = jnp.matmul(context.units["image"], pool.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jax.lax.stop_gradient(pool[similar.argmax(1)])
    at = (place + jnp.arange(len(context.units["text"]))) % rows
    fed = {"rows": pool.at[at].set(context.units["text"]), "next": (place + len(at)) % rows}
    context.metrics["pool_next"] = place
    return context.info_nce("image", nearest), fed


def pool_memory(width: int, rows: int = 24) -> dict[str, jax.Array]:
    kind = jnp.result_type(float)
    first = jax.random.normal(jax.random.key(3), (rows, width), kind)
    unit = first / jnp.linalg.norm(first, axis=1, keepdims=True)
    return {"rows": unit, "next": jnp.zeros((), jnp.int32)}


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS._rows, "pool", Term(pool_term, memory=pool_memory))
    monkeypatch.setitem(KEYS._rows, "objective.pool", weight(0.0, "of these tests"))


def two_steps(weights: dict[str, float], data: int = 1, fsdp: int = 1, **options: Any) -> Any:
    with jax.enable_x64(True):
        model = build(NUMBERS, dtype="float64", param_dtype="float64")
        variables, start = (dict(init(model, jax.random.key(seed))) for seed in (0, 1))
        objective = Objective(weights, **options)
        mesh, optimizer = make_mesh(data, fsdp), optax.sgd(0.1)
        state = place_state(mesh, fresh_state(variables, optimizer, objective, width=16))
        fixed = Fixed({"params": place_state(mesh, start["params"]), "batch_stats": {}})
        fixed = fixed if "start" in objective.needs else Fixed()
        step = make_step(model, optimizer, lambda _: jnp.float32(0.1), objective, mesh=mesh)
        for seed in (0, 1):
            state, metrics = step(state, fixed, place_batch(mesh, some_batch(seed)))
        return jax.tree.map(np.asarray, (state, metrics))


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        pytest.param({"data": 8, "chunks": 2}, marks=pytest.mark.slow),
        {"data": 2, "fsdp": 2, "ring": True},
    ],
)
def test_memory_and_start_are_the_same_in_chunks_in_a_ring_and_over_devices(terms: None, way: Any):
    weights = {"cross_modal": 1.0, "pool": 0.5, "perturb": 0.5, "others": 0.5, "unlearn": 0.5}
    plain, spread = two_steps(weights), two_steps(weights, **way)
    assert plain[0].memory["pool"]["next"] == 2 * PAIRS % 24
    assert {"pool", "pool_next", "perturb", "perturb_text", "suspects"} <= plain[1].keys()
    for one, other in zip(*map(jax.tree.leaves, (plain, spread)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_the_start_gets_no_gradient_and_options_reach_their_term():
    weights = {"perturb": 1.0}
    _, metrics = two_steps(weights, options={"perturb": {"threshold": 4.0}})
    least = 0.1  # the two towers of two seeds are further apart
    assert metrics["perturb_image"] > least and metrics["perturb_text"] > least
    assert metrics["gradient_norm"] > 0
    _, metrics = two_steps(weights, options={"perturb": {"threshold": least}})
    assert metrics["perturb"] == 0 and metrics["gradient_norm"] == 0


def with_objective(config: ConfigDict, **weights: Any) -> ConfigDict:
    with config.unlocked(), config.ignore_type():
        config.objective.update(weights)
    return config


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [
        {key: row[key] for key in row if key not in TIMED}
        for row in read_lines(workdir / "metrics.jsonl")
    ]


@pytest.mark.slow
def test_memory_and_the_frozen_start_survive_a_kill_and_a_start_that_is_gone(
    terms: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train(small_config(), tmp_path / "start")

    def config() -> ConfigDict:
        cleaned = small_config("mmcl")
        cleaned.start, cleaned.views.first = str(tmp_path / "start"), "light"
        return with_objective(cleaned, pool=1.0, perturb={"weight": 0.5, "threshold": 1.5})

    train(config(), tmp_path / "whole")
    record = Recorder.record

    class Killed(Exception):
        pass

    def killed(self: Recorder, done: Any) -> None:
        if done.step == 3:
            raise Killed
        record(self, done)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Recorder, "record", killed)
        train(config(), tmp_path / "killed")
    shutil.move(tmp_path / "start", tmp_path / "elsewhere")
    train(config(), tmp_path / "killed")
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert [row["pool_next"] for row in rows(tmp_path / "whole")] == [0, 16, 8, 0]
    assert state(tmp_path / "whole") == state(tmp_path / "killed")
    anchor = tmp_path / "killed" / "anchor"
    anchor.rename(tmp_path / "anchor")
    with pytest.raises(UserError, match="anchor is gone"):
        train(config(), tmp_path / "killed")
    (tmp_path / "anchor").replace(anchor)
    # Found again where it has moved to, and another is not taken for it.
    moved = config()
    moved.start = str(tmp_path / "elsewhere")
    train(moved, tmp_path / "killed")
    train(small_config(), tmp_path / "other")
    other = config()
    other.start = str(tmp_path / "other")
    with pytest.raises(UserError, match="another run: start"):
        train(other, tmp_path / "killed")


@pytest.mark.slow
def test_a_view_may_be_a_parameter():
    """A learned patch: it alone moves, by the gradient that goes through the towers."""
    model, optimizer = build(NUMBERS), optax.sgd(1e3)
    variables = dict(init(model, jax.random.key(0)))
    patch = jnp.full((4, 4, 3), 128.0)
    variables["params"] = {**variables["params"], "trigger": patch}
    before = jax.tree.map(np.asarray, variables["params"])

    def views(params: Any, step: Any, batch: Any, table: Any, mesh: Any) -> jax.Array:
        images = batch["images"].astype(jnp.float32)
        return images.at[:, :, :4, :4].set(params["trigger"])

    objective = Objective({"cross_modal": 1.0}, trainable=("trigger",))
    step = make_step(model, optimizer, lambda _: jnp.float32(1.0), objective, views=views)
    state = fresh_state(variables, optimizer, objective)
    batch = {name: jnp.asarray(values) for name, values in some_batch(0).items()}
    losses = []
    for _ in range(6):
        state, metrics = step(state, Fixed(), batch)
        losses.append(float(metrics["loss"]))
    after = jax.tree.map(np.asarray, state.params)
    assert losses[-1] < losses[0] and not np.array_equal(
        after.pop("trigger"), before.pop("trigger")
    )
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.slow
def test_a_learned_trigger_is_trained_saved_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a user registers one: it alone moves, on the poisoned pairs alone."""

    def on_host(x: np.ndarray, seed: int, place: Any, *, size: int) -> np.ndarray:
        return x

    def on_device(trigger: Any, images: jax.Array, stamps: jax.Array, patch: jax.Array) -> Any:
        return images.astype(jnp.float32).at[:, :4, :4].set(patch)

    monkeypatch.setitem(TRIGGERS._rows, "learned", Row(on_host, {"size": keys.size(4)}))
    monkeypatch.setitem(ON_DEVICE._rows, "learned", on_device)
    monkeypatch.setitem(LEARNED, "learned", lambda trigger, side: jnp.full((4, 4, 3), 128.0))

    def config() -> ConfigDict:
        config = small_config()
        config.attack.rate, config.attack.count = 0.5, None
        config.attack.trigger = ConfigDict({"name": "learned", "size": 4})
        config.views.on, config.views.image = "device", "none"
        config.train.trainable = "trigger"
        config.optimizer.learning_rate = 1.0
        return config

    train(config(), tmp_path / "run")
    with Store(tmp_path / "run" / "checkpoints") as store:
        params = store.load(model=store.saved("model"))["model"]["params"]
    assert np.abs(np.asarray(params["trigger"]) - 128).max() > 0.5
    model = load_start(open_start(tmp_path / "run"), make_mesh(1)).model
    fresh = init(model, jax.random.key(0))["params"]
    jax.tree.map(np.testing.assert_array_equal, params["visual"], fresh["visual"])
    train(config(), tmp_path / "run")  # taken up: nothing is left to do
    without = small_config()
    without.train.trainable = "trigger"
    with pytest.raises(UserError, match="has no learned one"):
        train(without, tmp_path / "without")


def test_parts_that_move_are_named_by_the_config():
    config = small_config()
    with config.ignore_type():
        config.train.trainable = ("visual", "text")
    objective = make_objective(config)
    assert objective.moves("visual") and objective.moves("text")
    assert not objective.moves("logit_scale") and not objective.moves("head")
    config.train.trainable = ("visual", "txt")
    with pytest.raises(UserError, match="'text'"):
        make_objective(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"treshold": 1.5}, "config.objective.perturb: .*'threshold'"),
        ({"threshold": 4.5}, "perturb.threshold is 4.5: it takes a number from 0 to 4"),
        ({"threshold": -1}, "perturb.threshold is -1: it takes a number from 0 to 4"),
        (
            {"threshold": 2},
            "perturb compares with the frozen start, and config.start is None: name",
        ),
    ],
)
def test_an_option_that_a_term_has_not_or_cannot_have_is_refused(options: Any, message: str):
    config = with_objective(small_config(), perturb={"weight": 1.0, **options})
    with pytest.raises(UserError, match=message):
        make_objective(config)


@pytest.mark.slow
def test_the_moments_of_the_start_are_taken_over(tmp_path: Path):
    """ "fresh optimizer" in docs/fidelity.md: the original loads its start's optimizer."""
    train(small_config(), tmp_path / "first")
    taken: dict[str, Any] = {}
    for moments in ("fresh", "start"):
        config = small_config("mmcl")
        config.start, config.train.steps = str(tmp_path / "first"), 1
        config.optimizer.moments = moments
        train(config, tmp_path / moments)
        with Store(tmp_path / moments / "checkpoints") as store:
            shapes = store.saved("progress")
            taken[moments] = store.load(progress=shapes)["progress"]
    counts = {
        moments: sorted(
            int(leaf)
            for path, leaf in jax.tree.leaves_with_path(state["opt_state"])
            if "count" in jax.tree_util.keystr(path)
        )
        for moments, state in taken.items()
    }
    # Adam's count goes on after the start's four steps, the schedule's begins anew.
    assert counts == {"fresh": [1, 1], "start": [1, 5]}
