"""What a run's time and chips come to: rates, goodput over restarts, utilisation, its starts."""

import json
from contextlib import nullcontext
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.files import read_lines
from cleanclip_jax.run import clock as timing
from cleanclip_jax.run.clock import Trace, note_start, peak_of, productive_seconds
from cleanclip_jax.run.recorder import Done, Recorder
from cleanclip_jax.workdir import Workdir

SECONDS = 2.0  # of a step, on the clock below


class Hand:
    """Time that passes only where the test lets it."""

    seconds = 1000.0


@pytest.fixture
def clock(monkeypatch):
    now = Hand()
    monkeypatch.setattr(timing.time, "time", lambda: now.seconds)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now.seconds)
    return now


def done(step: int, loss: float = 1.0) -> Done:
    values = {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(1.0)}
    return Done(step, values, 0.5, np.arange(3), flops=3.0)


def record(recorder: Recorder, clock: Hand, step: int, seconds: float = SECONDS) -> None:
    clock.seconds += seconds
    recorder.record(done(step))


def recorder(folder, first, began, **more) -> Recorder:
    return Recorder(Workdir(folder), first, 100, log_every=5, batch_size=8, began=began, **more)


def test_rates_are_those_of_the_steps_without_the_start_and_without_saving(tmp_path, clock):
    with recorder(tmp_path, 0, 990.0, peak=100.0) as lines:
        record(lines, clock, 1, seconds=20.0)  # it compiles
        for step in (2, 3, 4):
            record(lines, clock, step)
        with lines.paused():
            clock.seconds += 50.0
        record(lines, clock, 5)
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    assert row["step_seconds"] == SECONDS and row["pairs_per_second"] == 8 / SECONDS
    assert row["data_wait_share"] == 0.5 / SECONDS
    assert row["startup_seconds"] == 30.0
    assert row["model_flops_utilisation"] == pytest.approx(3.0 * 8 / SECONDS / 100.0)
    # Five steps' time, of all since the start: 10 s before it, 20, 3 x 2, 50 and 2.
    assert row["goodput"] == pytest.approx(5 * SECONDS / 88.0)


def test_the_last_lines_rate_is_that_of_its_step(tmp_path, clock):
    """On a processor a step has run when it is dispatched: each line has its own step's time."""
    with Recorder(Workdir(tmp_path), 0, 4, log_every=1, batch_size=8, began=990.0) as lines:
        for step in range(1, 5):
            clock.seconds += SECONDS
            lines.take(done(step))
        lines.catch_up()
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["step_seconds"] for row in rows] == 4 * [SECONDS]


def test_no_step_takes_less_than_it_waited_for_data(tmp_path, clock):
    with Recorder(Workdir(tmp_path), 0, 2, log_every=1, batch_size=8, began=990.0) as lines:
        record(lines, clock, 1)
        record(lines, clock, 2, seconds=0.01)  # it was fetched when the one before had been
    row = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert (row["step_seconds"], row["data_wait_share"]) == (0.5, 1.0)


def test_goodput_counts_what_a_kill_undid_and_the_time_between_starts(tmp_path, clock):
    note_start(Workdir(tmp_path), 0, 1000.0)
    with recorder(tmp_path, 0, 1000.0) as lines:
        for step in range(1, 16):
            record(lines, clock, step)
    clock.seconds += 100.0  # killed at 15; the checkpoint is of 10
    note_start(Workdir(tmp_path), 10, clock.seconds)
    with recorder(tmp_path, 10, clock.seconds) as lines:
        for step in range(11, 16):
            record(lines, clock, step)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert rows[-1]["goodput"] == pytest.approx(15 * SECONDS / (clock.seconds - 1000.0))
    assert productive_seconds(rows) == pytest.approx(15 * SECONDS)


def test_rows_without_step_seconds_count_as_none():
    rows = [{"step": 5}, {"step": 10, "step_seconds": SECONDS}]
    assert productive_seconds(rows) == 5 * SECONDS and productive_seconds([]) == 0


def test_a_start_is_noted_with_its_command_and_machines(tmp_path):
    before = {"time": 1.0, "command": "cleanclip train", "device": "cpu", "devices": 1}
    (tmp_path / "starts.jsonl").write_text(json.dumps(before) + '\n{"torn')
    note_start(Workdir(tmp_path), 7, 86400.0)
    first, second = read_lines(tmp_path / "starts.jsonl")
    assert first == before and second["step"] == 7 and second["processes"] == 1
    assert second["when"] == "1970-01-02T00:00:00Z" and second["command"].startswith("cleanclip")


def test_each_step_is_named_for_a_profiler_and_some_are_traced(tmp_path, monkeypatch):
    calls = []

    def noted(name, *args, **options):
        calls.append((name, *args, options))
        return nullcontext()

    for name in ("start_trace", "stop_trace", "StepTraceAnnotation"):
        monkeypatch.setattr(timing.jax.profiler, name, partial(noted, name))
    with Trace(Workdir(tmp_path), first=3, steps=2) as trace:
        for step in range(3, 12):
            trace.step(step)
    folder = str(tmp_path / "profile")
    assert [call[1:] for call in calls if call[0] == "StepTraceAnnotation"] == [
        ("train", {"step_num": step}) for step in range(3, 12)
    ]
    others = [(i, call) for i, call in enumerate(calls) if call[0] != "StepTraceAnnotation"]
    assert others == [(5, ("start_trace", folder, {})), (8, ("stop_trace", {}))]


def test_a_chip_is_known_by_its_longest_name():
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12 and peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("TPU v5 lite") == 197e12 and peak_of("TPU v5") == 459e12
    assert peak_of("cpu") is None
