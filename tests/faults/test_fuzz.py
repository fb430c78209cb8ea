"""Random command lines and configs: each is a run or one line, and nothing is written."""

import logging
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_lines import FLAGS, command_line, config_file, job_line
from helpers.torch_files import random_values, tensors_of
from safetensors.numpy import save_file

from cleanclip_jax import cli
from cleanclip_jax.jobs import train
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.workdir import Workdir

WORKDIRS = Path(__file__).parents[1] / "golden/workdirs"
# Lines that are no refusal.
REPORTED = (
    "converting",
    "nothing says which activation",
    "not carried over",
    "left out",
    "passed ",
)


class Checked(Exception):
    """A run of which nothing is left to be refused."""


@contextmanager
def checks_only(config: Any, path: Path, profile: int = 0) -> Iterator[None]:
    """In place of `build`: all that it does before it writes."""
    check_run(config, Workdir(path))
    raise Checked
    yield


def stop(*_: Any, **__: Any) -> Any:
    """In place of what a job does when nothing is left to be refused."""
    raise Checked


def outcome(words: list[str], capsys: pytest.CaptureFixture) -> str:
    """ "checked", or "refused" by one line."""
    try:
        code = cli.main(words)
    except Checked:
        return "checked"
    lines = [line for line in capsys.readouterr().err.splitlines() if line[:10] == "cleanclip:"]
    refusals = [line for line in lines if not any(word in line for word in REPORTED)]
    if code == 0 and words[0] != "train":
        return "done"
    if code == 1 and words[0] == "sweep":
        return "failed"  # a point's: its line is in the table
    assert code == 2 and len(refusals) == 1 and refusals[0].isprintable(), (code, lines)
    return "refused"


def fuzzed(
    seed: int, count: int, files: bool, folder: Path, capsys: pytest.CaptureFixture
) -> Counter[str]:
    """What became of so many command lines, or config files."""
    draw, outcomes, failed = random.Random(seed), Counter[str](), []
    for i in range(count):
        words = command_line(draw, folder / "run")
        if files:
            # Python remembers a file by its date and size.
            path = folder / f"config_{i}.py"
            path.write_text(config_file(draw), errors="surrogateescape")
            words = ["train", f"--config={path}", f"--workdir={folder / 'run'}"]
        began = time.monotonic()
        try:
            outcomes[outcome(words, capsys)] += 1
        except (Exception, SystemExit) as error:
            failed.append(f"{type(error).__name__}: {error!s:.300} of {words!s:.600}")
        if (seconds := time.monotonic() - began) > 60:
            failed.append(f"{seconds:.0f} s of {words}")
        assert not (folder / "run").exists(), words
    assert not failed, f"{len(failed)} of {count}:\n" + "\n".join(failed[:100])
    return outcomes


@pytest.fixture(autouse=True)
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "build", checks_only)
    monkeypatch.setattr(train, "begin", lambda args, heartbeat: None)
    monkeypatch.setattr(logging.getLogger("cleanclip_jax"), "setLevel", lambda level: None)


@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 25), *(pytest.param(seed, 1000, marks=pytest.mark.faults) for seed in range(1, 7))],
)
def test_a_command_line_is_a_run_or_one_line(
    seed: int, count: int, tmp_path: Path, capsys: pytest.CaptureFixture
):
    outcomes = fuzzed(seed, count, False, tmp_path, capsys)
    # Most lines of so few may have something wrong in them.
    assert outcomes["refused"] > count / 4 and outcomes["checked"] > count / 50 - 1, outcomes


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of right files and wrong ones, in which jobs stop before they work or write."""
    shutil.copytree(WORKDIRS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "configs").symlink_to(WORKDIRS.parents[2] / "configs")
    values = random_values("open_clip", VARIANTS["ViT-test"])
    save_file(values, tmp_path / "a.safetensors")
    tensors = tensors_of(values)
    torch.save({"state_dict": tensors, "average": tensors}, tmp_path / "a.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:50_000])
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    for place in (
        *("report.evaluation.load_start", "jobs.poison.write_plan", "jobs.prepare.prepare"),
        *("jobs.sweep.measure_run", "jobs.report.write_report"),
    ):
        monkeypatch.setattr(f"cleanclip_jax.{place}", stop)
    monkeypatch.setattr("cleanclip_jax.jobs.sweep.build", checks_only)
    for job in ("evaluate", "sweep"):
        monkeypatch.setattr(f"cleanclip_jax.jobs.{job}.begin", lambda args, heartbeat: None)
    return tmp_path


@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 5), *(pytest.param(seed, 200, marks=pytest.mark.faults) for seed in (1, 2))],
)
@pytest.mark.parametrize("job", FLAGS)
def test_a_command_line_of_any_job_is_its_work_or_one_line(
    job: str, seed: int, count: int, files: Path, capsys: pytest.CaptureFixture
):
    draw, outcomes, failed = random.Random(f"{job} {seed}"), Counter[str](), []
    before = {*files.rglob("*")}
    for _ in range(count):
        words, began = job_line(draw, job), time.monotonic()
        try:
            outcomes[result := outcome(words, capsys)] += 1
        except (Exception, SystemExit) as error:
            failed.append(f"{type(error).__name__}: {error!s:.300} of {words!s:.600}")
            result = "failed"
        if (seconds := time.monotonic() - began) > 60:
            failed.append(f"{seconds:.0f} s of {words}")
        more = {*files.rglob("*")} - before
        if more and result in ("refused", "checked"):
            failed.append(f"{sorted(more)[:3]} of {words!s:.600}")
        for path in sorted(more, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert not failed, f"{len(failed)} of {count}:\n" + "\n".join(failed[:100])
    assert count < 100 or count / 5 < outcomes["refused"] < count
    print(job, dict(outcomes))


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 25), pytest.param(1, 1000, marks=pytest.mark.faults)]
)
def test_a_config_file_is_a_run_or_one_line(
    seed: int, count: int, tmp_path: Path, capsys: pytest.CaptureFixture
):
    outcomes = fuzzed(seed, count, True, tmp_path, capsys)
    assert outcomes["refused"] > count / 4, outcomes
