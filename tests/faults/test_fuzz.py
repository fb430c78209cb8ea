"""Random command lines and configs: each is a run or one line, and nothing is written."""

import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.command_lines import command_line, config_file

from cleanclip_jax import cli
from cleanclip_jax.jobs import train
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.workdir import Workdir


class Checked(Exception):
    """A run of which nothing is left to be refused."""


@contextmanager
def checks_only(config: Any, path: Path, profile: int = 0) -> Iterator[None]:
    """In place of `build`: all that it does before it writes."""
    check_run(config, Workdir(path))
    raise Checked
    yield


def outcome(words: list[str], capsys: pytest.CaptureFixture) -> str:
    """ "checked", or "refused" by one line."""
    try:
        code = cli.main(words)
    except Checked:
        return "checked"
    lines = [line for line in capsys.readouterr().err.splitlines() if line[:10] == "cleanclip:"]
    refusals = [line for line in lines if "converting" not in line]
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
    assert outcomes["refused"] > count / 4 and outcomes["checked"] > count / 50, outcomes


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 25), pytest.param(1, 1000, marks=pytest.mark.faults)]
)
def test_a_config_file_is_a_run_or_one_line(
    seed: int, count: int, tmp_path: Path, capsys: pytest.CaptureFixture
):
    outcomes = fuzzed(seed, count, True, tmp_path, capsys)
    assert outcomes["refused"] > count / 4, outcomes
