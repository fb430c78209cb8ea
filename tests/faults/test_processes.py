"""Several processes on this machine are one run, however many they are and whatever ends one."""

import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.processes import run, started
from helpers.small_run import small_config

from cleanclip_jax.config import flatten, load
from cleanclip_jax.files import read_lines
from cleanclip_jax.run.clock import TIMED
from cleanclip_jax.start.store import open_store

ROOT = Path(__file__).parent.parent.parent
STEPS = 30
SMALL = {
    "model.dtype": "float64",
    "model.param_dtype": "float64",
    "objective.in_modal": 1.0,
    "train.steps": STEPS,
    "train.checkpoint_every": 100,
    # Nothing of this may depend on how many processes there are: pictures in device memory,
    # triggers put on there, and captions cut to what the longest of all processes needs.
    # AutoAugment, which takes its time to compile, is held against several devices in
    # test_device_autoaugment.py.
    "views.on": "device",
    "views.image": "none",
    "data.resident": True,
    "train.text_lengths": (8,),
    "data.train.templates": ["a handwritten {}."] * 30 + ["a {} that somebody wrote by hand."],
}


def words(workdir: Path, **more) -> list[str]:
    """`cleanclip train` of the small run with views, as words."""
    default = flatten(load("configs/demo.py"))
    wanted = flatten(small_config()) | SMALL | {"mesh.data": -1} | more
    overrides = [f"--config.{key}={v}" for key, v in wanted.items() if default[key] != v]
    shapes = f"--import={ROOT}/tests/helpers/variants.py"
    config = "--config=configs/demo.py:poisoned"
    return ["train", shapes, config, f"--workdir={workdir}", *overrides]


def weights(workdir: Path):
    with open_store(workdir) as (step, store):
        kept = {part: store.saved(part) for part in ("model", "progress")}
        return step, store.load(**kept)


def rows(workdir: Path):
    found = read_lines(workdir / "metrics.jsonl")
    return [{key: row[key] for key in row if key not in TIMED} for row in found]


def same_figures(found, wanted):
    """Every step's loss: the pairs, their order and the views drawn for them were the same."""
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-8, err_msg=f"{key} {ours}")


def wait_for_step(workdir: Path, step: int, seconds: float = 150) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done = read_lines(workdir / "metrics.jsonl")
        if done and done[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} within {seconds} s")


def stopped_at(count: int, workdir: Path, logs: Path, step: int) -> list[int]:
    """Runs until `step` is done, tells one process to leave, and returns the exit codes."""
    with started(count, words(workdir), logs, x64=True) as processes:
        wait_for_step(workdir, step)
        os.kill(processes[-1].pid, signal.SIGTERM)
        return [process.wait(timeout=60) for process in processes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert run(1, words(folder / "run"), folder, x64=True) == [0]
    return folder / "run"


@pytest.mark.faults
@pytest.mark.parametrize("counts", [(2,), (4, 2)])
def test_stopped_and_resumed_with_fewer(alone: Path, tmp_path: Path, counts: tuple[int, ...]):
    """SIGTERM to one process saves all at one step; no step is lost, and the end is the same."""
    workdir = tmp_path / "run"
    for stop, count in enumerate(counts, 1):
        logs = tmp_path / f"logs{count}"
        assert stopped_at(count, workdir, logs, 9 * stop - 6) == [75] * count, logs
        saved = rows(workdir)[-1]["step"]
        assert f"saved step {saved} of {STEPS}" in (logs / "0.log").read_text()
    assert run(1, words(workdir), tmp_path / "logs1", x64=True) == [0]
    starts = read_lines(workdir / "starts.jsonl")
    assert [start["processes"] for start in starts] == [*counts, 1]
    assert all(start["step"] >= 9 * i - 6 for i, start in enumerate(starts[1:], 1))
    same_figures(rows(workdir), rows(alone))
    (step, ours), (end, theirs) = weights(workdir), weights(alone)
    assert step == end == STEPS
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.faults
def test_measured_by_two_is_measured_by_one(alone: Path, tmp_path: Path):
    found = []
    for count in (1, 2):
        path = tmp_path / f"{count}.json"
        asked = ["evaluate", f"--workdir={alone}", f"--output={path}"]
        assert run(count, asked, tmp_path / f"logs{count}", x64=True) == [0] * count
        found.append(json.loads(path.read_text()))
    assert found[0]["figures"] == found[1]["figures"]


@pytest.mark.slow
def test_two_take_the_steps_of_one_and_if_one_is_lost_the_other_ends(alone: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    with started(2, words(workdir, **{"mesh.heartbeat": 10}), tmp_path, x64=True) as processes:
        wait_for_step(workdir, 6)
        processes[1].kill()
        assert processes[0].wait(timeout=30) == 75
    assert "another process was lost" in (tmp_path / "0.log").read_text()
    found, wanted = rows(workdir), rows(alone)
    same_figures(found, wanted[: len(found)])


@pytest.mark.slow
@pytest.mark.slow
def test_large_steps_and_small_programs_keep_their_order(tmp_path: Path):
    """A step that takes long enough to be still under way when the next program begins."""
    keys = {"objective.in_modal": 1.0, "train.batch_size": 128, "train.steps": 12}
    keys |= {"train.log_every": 1, "optimizer.warmup_steps": 1}
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    run_words = ["train", "--config=configs/demo.py:poisoned", f"--workdir={tmp_path / 'run'}"]
    assert run(2, [*run_words, *flags], tmp_path / "logs") == [0, 0]
    assert len(rows(tmp_path / "run")) == 12


def test_a_mistake_of_one_ends_all_with_2_and_writes_nothing(tmp_path: Path):
    workdir = tmp_path / "run"
    extra = {1: ["--config.train.trainable=tail"]}
    assert run(2, words(workdir), tmp_path, x64=True, extra=extra) == [2, 2]
    line = "config.train.trainable: unknown 'tail'"
    first, second = ((tmp_path / f"{i}.log").read_text().splitlines()[-1] for i in (0, 1))
    assert second.startswith(f"cleanclip: {line}")
    assert first.startswith(f"cleanclip: process 1: {line}") and not workdir.exists()


def test_whatever_one_process_alone_meets_is_the_error_of_all(tmp_path: Path, monkeypatch):
    """A fact that differs, boards that refuse process 0, a damaged file: never one's end alone."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("bad_rows.1.jsonl", "starts.jsonl"):
        (folder / name).mkdir()
    assert run(2, [str(folder)], tmp_path, module="helpers.agreeing") == [0, 0]
    first, second = (
        dict(line.split(": ", 1) for line in (tmp_path / f"{i}.log").read_text().splitlines())
        for i in (0, 1)
    )
    for name, line in {
        "same facts": "-",
        "another seed": "config.seed differs between the processes: 0 on process 0, 1 on process 1",
        "a fact more": "the start differs between the processes: not given on process 0, 81f3 on",
        "same again": "-",
    }.items():
        assert first[name] == second[name] and first[name].startswith(line), name
    for name, where, line in (
        ("one alone", 1, "é" * 3000 + " of one"),
        ("boards", 0, "Weights & Biases refuses"),
        ("a full disk", 0, f"{folder}/tensorboard can't be written: No space left on device"),
        ("bad rows", 1, f"{folder}/bad_rows.1.jsonl is a folder, pipe or device"),
        ("starts", 0, f"{folder}/starts.jsonl is a folder, pipe or device"),
    ):
        assert (first, second)[where][name].startswith(line), name
        assert (second, first)[where][name].startswith(f"process {where}: {line}"), name
