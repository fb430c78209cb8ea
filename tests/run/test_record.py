"""What a run says of itself: rates, goodput over restarts, utilisation of the chip."""

import json
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.models.clip import build
from cleanclip_jax.run import boards
from cleanclip_jax.run import record as metrics
from cleanclip_jax.run.clock import flops_per_pair, peak_of
from cleanclip_jax.run.record import Done, Recorder, productive_seconds
from cleanclip_jax.run.state import Objective

SECONDS = 2.0  # of a step, on the clock below


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where the test lets it."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(metrics.time, "time", lambda: now.seconds)
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now.seconds)
    return now


def done(step: int, waited: float = 0.5, loss: float = 1.0) -> Done:
    values = {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(1.0)}
    return Done(step, values, waited, np.arange(3), flops=3.0)


def record(recorder: Recorder, clock: SimpleNamespace, step: int, seconds: float = SECONDS) -> None:
    clock.seconds += seconds
    recorder.record(done(step))


def recorder(folder, first, began, **more) -> Recorder:
    return Recorder(folder, first, 100, log_every=5, batch_size=8, began=began, **more)


def test_rates_are_those_of_the_steps_without_the_start_and_without_saving(tmp_path, clock):
    with recorder(tmp_path, 0, 990.0, peak=100.0) as found:
        record(found, clock, 1, seconds=20.0)  # it compiles
        for step in (2, 3, 4):
            record(found, clock, step)
        with found.paused():
            clock.seconds += 50.0
        record(found, clock, 5)
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    assert row["step_seconds"] == SECONDS and row["pairs_per_second"] == 8 / SECONDS
    assert row["data_wait_share"] == 0.5 / SECONDS
    assert row["startup_seconds"] == 30.0
    assert row["model_flops_utilisation"] == pytest.approx(3.0 * 8 / SECONDS / 100.0)
    # Five steps' time, of all since the start: 10 s before it, 20, 3 x 2, 50 and 2.
    assert row["goodput"] == pytest.approx(5 * SECONDS / 88.0)


def test_goodput_counts_what_a_kill_undid_and_the_time_between_starts(tmp_path, clock):
    (tmp_path / "starts.jsonl").write_text(json.dumps({"time": 1000.0}) + "\n")
    with recorder(tmp_path, 0, 1000.0) as found:
        for step in range(1, 16):
            record(found, clock, step)
    clock.seconds += 100.0  # killed at 15; the checkpoint is of 10
    with recorder(tmp_path, 10, clock.seconds) as found:
        for step in range(11, 16):
            record(found, clock, step)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert rows[-1]["goodput"] == pytest.approx(15 * SECONDS / (clock.seconds - 1000.0))
    assert productive_seconds(rows) == pytest.approx(15 * SECONDS)


def test_a_step_that_is_not_finite_is_written_down_and_ends_the_run(tmp_path, clock):
    found = recorder(tmp_path, 0, 1000.0)
    clock.seconds += SECONDS
    with found, pytest.raises(UserError, match=r"not finite at step 2.*not_finite\.json"):
        found.record(done(2, loss=float("inf")))
    facts = json.loads((tmp_path / "not_finite.json").read_text())
    assert facts == {"step": 2, "loss": "inf", "gradient_norm": 1.0, "index": [0, 1, 2]}


@pytest.mark.parametrize(
    ("variant", "giga"),
    [("RN50", 17.5), ("ViT-B/32", 14.8), pytest.param("ViT-B/16", 41.1, marks=pytest.mark.faults)],
)
def test_flops_of_a_pair(variant, giga):
    """Three forwards; the published counts are of all queries in RN50's attention pool."""
    model = build(variant)
    plain = flops_per_pair(model, Objective({"cross_modal": 1.0}))
    assert plain / 3e9 == pytest.approx(giga, rel=0.01)
    both = flops_per_pair(model, Objective({"cross_modal": 1.0, "in_modal": 1.0}))
    assert both == 2 * plain
    looped = build(variant, scan=True, remat=True)
    assert flops_per_pair(looped, Objective({"cross_modal": 1.0})) == plain
    probe = flops_per_pair(model, Objective({"classification": 1.0}, trainable="head"))
    assert probe < plain / 3


def test_a_chip_is_known_by_its_longest_name():
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12 and peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("TPU v5 lite") == 197e12 and peak_of("TPU v5") == 459e12
    assert peak_of("cpu") is None


def test_weights_and_biases_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'cleanclip-jax\[wandb\]'"):
        boards.Boards(tmp_path, 0, "backdoors", {})
