"""One training a workdir at a time, and a dead owner's is taken."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.run import owner as owners
from cleanclip_jax.run.owner import Owner
from cleanclip_jax.workdir import OWNER, Workdir


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workdir:
    monkeypatch.setattr(owners, "BEAT", 0.02)
    monkeypatch.setattr(owners, "SILENCE", 0.3)
    (tmp_path / "run").mkdir()
    return Workdir(tmp_path / "run")


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network's file system."""

    def flock(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_second_training_is_refused_in_one_line(workdir: Workdir):
    with Owner(workdir) as first:
        first.take()
        with Owner(workdir) as second, pytest.raises(UserError) as error:
            second.look()
        assert f"process {os.getpid()} on" in str(error.value) and "\n" not in str(error.value)
        first.check()
    assert not workdir.has(OWNER)
    with Owner(workdir) as third:
        third.look()
        third.take()


def test_looking_writes_nothing(tmp_path: Path):
    with Owner(Workdir(tmp_path / "run")) as owner:
        owner.look()
    assert not (tmp_path / "run").exists()


def test_a_pipe_in_place_of_the_owners_file_is_one_line(workdir: Workdir):
    os.mkfifo(workdir / OWNER)
    with Owner(workdir) as owner, pytest.raises(UserError, match=r"owner\.json is a .*pipe"):
        owner.take()
    (workdir / OWNER).unlink()
    with Owner(workdir) as owner:
        owner.take()
        (workdir / OWNER).unlink(missing_ok=True)
        os.mkfifo(workdir / OWNER)  # meanwhile: what the run has done stays done
        owner._leaving.set()


def test_one_that_was_killed_here_is_no_owner(workdir: Workdir):
    """Its lock went with it: nothing is waited for."""
    owners.SILENCE = 3600.0
    with Owner(workdir) as owner:
        workdir.write_json(OWNER, {**owner._facts, "id": "killed"})
        owner.take()


def test_one_that_lives_elsewhere_is_known_by_its_beats(workdir: Workdir, without_locks: None):
    with Owner(workdir) as first:
        first.take()
        with Owner(workdir) as second, pytest.raises(UserError, match="one run at a time"):
            second.look()


@pytest.mark.parametrize("content", ['{"id": "gone", "host": "elsewhere"}', "[]", "{torn", ""])
def test_one_that_died_elsewhere_is_taken_over(content: str, workdir: Workdir):
    workdir.write(OWNER, content)
    with Owner(workdir) as owner:
        owner.look()
        owners.SILENCE = 3600.0  # it is waited for once
        owner.take()
        assert json.loads((workdir / OWNER).read_text())["process"] == os.getpid()


def test_one_that_was_taken_for_dead_writes_no_checkpoint(workdir: Workdir):
    with Owner(workdir) as owner:
        owner.take()
        workdir.write_json(OWNER, {"id": "other", "host": "elsewhere", "process": 7})
        with pytest.raises(UserError, match="process 7 on elsewhere trains there"):
            owner.check()
    assert workdir.has(OWNER)  # the other's stays
