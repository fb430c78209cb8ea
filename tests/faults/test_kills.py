"""kill -9 at any moment: the same command goes on, and the end is the uninterrupted run's."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from helpers.fault_runs import figures, finished, running, state, words

# The moments: each says whether it is now, from the workdir, and how long to wait then.
Moment = Callable[[Path], bool]


def saving(workdir: Path) -> bool:
    return any(path.name.endswith("-tmp") for path in (workdir / "checkpoints").glob("*-tmp"))


def saved_without_digests(workdir: Path) -> bool:
    steps = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    return any(not (step / "digests.json").exists() for step in steps)


def claiming(workdir: Path) -> bool:
    return any(workdir.glob("*.json")) or any(workdir.glob(".*.part"))


def anchoring(workdir: Path) -> bool:
    """The frozen start is being copied, or just has been."""
    return any((workdir / "anchor").glob("*"))


def training(workdir: Path) -> bool:
    return True


def kill(process: Popen, workdir: Path, moment: Moment, more: int, pause: float) -> bool:
    """Kills a run at a moment after `more` further lines of metrics; False: it ended before.

    Returns when the process is gone.
    """
    path = workdir / "metrics.jsonl"

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    began = time.monotonic()
    if moment not in (claiming, anchoring):
        # Lines of before are cut off or kept when the run is taken up: the start is noted then.
        starts = workdir / "starts.jsonl"
        before = starts.stat().st_mtime_ns if starts.is_file() else 0
        while process.poll() is None and (
            not starts.is_file() or starts.stat().st_mtime_ns == before
        ):
            time.sleep(0.005)
        first = lines()
        while process.poll() is None and lines() < first + more:
            time.sleep(0.002)
    while process.poll() is None and not moment(workdir):
        time.sleep(0.0005)
        assert time.monotonic() - began < 240, "the moment does not come"
    time.sleep(pause)
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def killed_and_resumed(
    folder: Path,
    kills: int,
    steps: int,
    every: int,
    early: tuple[Moment, ...] = (claiming,),
    **keys: Any,
) -> None:
    """Holds a run that is killed so often, and at early moments, against one that is not."""
    draw = random.Random(0)
    moments = [saving, training, saved_without_digests]
    plan = [*early, *(moments[i % len(moments)] for i in range(kills - 1))]
    whole, torn, log = folder / "whole", folder / "torn", folder / "log"
    finished(words(whole, steps, every, **keys), log)
    command = words(torn, steps, every, **keys)
    hit = 0
    for moment in plan:
        with running(command, log) as process:
            more, pause = draw.randint(1, 2), draw.random() * (0.1 if moment is training else 0.004)
            assert kill(process, torn, moment, more, pause), log.read_text()[-3000:]
        hit += saving(torn) or saved_without_digests(torn)
    finished(command, log)
    assert state(torn) == state(whole)
    assert figures(torn) == figures(whole) and len(figures(whole)) == steps
    assert sorted(os.listdir(torn / "checkpoints")) == sorted(os.listdir(whole / "checkpoints"))
    # Some of the kills came while a checkpoint was written, and none was mistaken for damage.
    assert hit >= kills // 4
    assert not (torn / "damaged").exists() and "damaged" not in log.read_text()


@pytest.mark.faults
def test_three_kills(tmp_path: Path):
    killed_and_resumed(tmp_path, kills=3, steps=8, every=2)


@pytest.mark.faults
def test_kills_of_a_run_that_compares_with_its_frozen_start(tmp_path: Path):
    """PAR: also as the start is copied, and each resumption draws the same light views."""
    finished(words(tmp_path / "start", 2, 2), tmp_path / "start.log")
    par = {"start": tmp_path / "start", "objective.perturb": 1.0, "views.first": "light"}
    keys = {**par, "train.trainable": "towers", "optimizer.decay_mask": "matrices"}
    killed_and_resumed(tmp_path, 3, steps=8, every=2, early=(claiming, anchoring), **keys)
    assert figures(tmp_path / "torn")[-1]["perturb_image"] > 0


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 1])
def test_twenty_kills(tmp_path: Path, workers: int):
    keys: dict[str, Any] = {"data.workers": workers}
    killed_and_resumed(tmp_path, kills=20, steps=60, every=2, **keys)
