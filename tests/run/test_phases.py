"""Phases: which terms count at a step, and that runs with several go on exactly."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.fault_runs import figures, state
from helpers.few_pairs import few, killed_at
from helpers.small_run import small_config, train
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.run.phases import Steps
from cleanclip_jax.run.state import Fixed, Objective, fresh_state, make_objective
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import make_mesh, place_batch, place_state

NUMBERS = Variant(16, 16, 1, 64, 8, 0, 64, 1, context_length=6, vocab_size=80)
PAIRS = 16


def roclip(folder: Path, **options: Any) -> ConfigDict:
    """Three epochs of two steps."""
    config = few(folder, 6)
    with config.unlocked(), config.ignore_type():
        config.objective.matched = ConfigDict({"weight": 1.0, "pool": 24, **options})
        config.views.first = "strong"
    return config


def batch_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (PAIRS, 2, 16, 16, 3), dtype=np.uint8)
    tokens = rng.integers(1, 79, (PAIRS, 2, 6)).astype(np.int32)
    tokens[:, :, -1] = 79
    return {"images": images, "tokens": tokens}


def three_steps(objective: Objective, epoch: int, data: int = 1, fsdp: int = 1) -> Any:
    with jax.enable_x64(True):
        model = build(NUMBERS, dtype="float64", param_dtype="float64")
        optimizer, mesh = optax.sgd(0.1), make_mesh(data, fsdp)

        def make(objective: Objective) -> Any:
            return make_step(model, optimizer, lambda _: jnp.float32(0.1), objective, mesh=mesh)

        variables = dict(init(model, jax.random.key(0)))
        now = place_state(mesh, fresh_state(variables, optimizer, objective, width=16))
        steps, logged = Steps(make, objective, epoch), []
        for done in (1, 2, 3):
            now, metrics = steps(done)(now, Fixed(), place_batch(mesh, batch_of(done)))
            logged.append(jax.tree.map(np.asarray, metrics))
        return jax.tree.map(np.asarray, now), logged


WAYS = [
    {"data": 2, "fsdp": 4, "ring": True, "chunks": 2},
    pytest.param({"data": 8}, marks=pytest.mark.slow),
    pytest.param({"chunks": 4}, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_pools_are_the_same_over_devices_in_chunks_and_in_a_ring(way: dict[str, Any]):
    weights = {"cross_modal": 1.0, "matched": 1.0}
    options = {"matched": {"pool": 24, "start": "noise"}}
    places = {name: way[name] for name in ("data", "fsdp") if name in way}
    others = {name: way[name] for name in way if name not in places}
    plain = three_steps(Objective(weights, options), 1)
    spread = three_steps(Objective(weights, options, **others), 1, **places)
    assert plain[0].memory["matched"]["next"] == 16
    for one, other in zip(*map(jax.tree.leaves, (plain, spread)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    counted = [{"cross_modal", "matched"} & set(row) for row in plain[1]]
    assert counted == [{"cross_modal"}, {"matched"}, {"cross_modal"}]


@pytest.mark.slow
def test_safeclips_terms_are_the_same_over_devices_in_chunks_and_in_a_ring():
    weights = {"nearest_in_modal": 1.0, "crossed": 1.0}
    options = {"nearest_in_modal": {"pool": 24, "start": "noise"}}
    plain = three_steps(Objective(weights, options), 1)
    way = Objective(weights, options, ring=True, chunks=2)
    spread = three_steps(way, 1, data=2, fsdp=4)
    for one, other in zip(*map(jax.tree.leaves, (plain, spread)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_a_step_is_compiled_for_each_phase_once():
    objective = Objective({"cross_modal": 1.0, "matched": 1.0}, {"matched": {"every": 3}})
    steps = Steps(lambda objective: lambda: objective.resting, objective, 2)
    phases = ["".join(steps(done)()) for done in range(1, 9)]
    assert phases == ["matched"] * 4 + ["cross_modal"] * 2 + ["matched"] * 2
    assert len(steps._made) == 2 and steps(5) is steps(6)


@pytest.mark.slow
def test_killed_in_each_phase_and_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: Any):
    """Epochs 1 and 3 are plain, epoch 2 is matched; the pool holds a batch and a half."""
    config = roclip(tmp_path)
    config.train.checkpoint_every = 1
    train(config, tmp_path / "whole")
    rows = figures(tmp_path / "whole")
    assert ["matched" in row for row in rows] == [False, False, True, True, False, False]
    for step in (2, 4, 6):
        killed_at(step, config, tmp_path / "torn", monkeypatch)
    train(config, tmp_path / "torn")
    assert figures(tmp_path / "torn") == rows
    whole, torn = state(tmp_path / "whole"), state(tmp_path / "torn")
    assert whole == torn and any("matched" in name for name in whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 8}, r"objective\.matched\.pool is 8, less than config\.train\.batch_size 16"),
        ({"every": 0}, r"matched\.every is 0: it takes a whole number, 1 or more"),
        ({"start": "noisy"}, r"matched\.start: unknown 'noisy'.*'noise'"),
        ({"pol": 64}, r"config\.objective\.matched: unknown 'pol'.*'pool'"),
    ],
)
def test_what_a_pool_can_not_be_is_one_line(options: dict[str, Any], message: str):
    config = small_config()
    with config.unlocked(), config.ignore_type():
        config.objective.matched = ConfigDict(options)
    with pytest.raises(UserError, match=message):
        make_objective(config)


def test_an_epoch_in_which_no_term_counts_is_one_line():
    config = small_config()
    with config.unlocked(), config.ignore_type():
        config.objective.matched, config.objective.cross_modal = 1.0, 0.0
    with pytest.raises(UserError, match="no term counts in epoch 1, in which matched rests"):
        make_objective(config)
