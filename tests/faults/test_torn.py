"""A damaged checkpoint: the run goes on from the one before and ends as if nothing had been."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fault_runs import figures, state
from helpers.small_run import small_config, train
from helpers.small_run import trained as trained_in

from cleanclip_jax import cli
from cleanclip_jax.errors import UserError
from cleanclip_jax.start.digests import FILE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps; it has the checkpoints 2 and 4."""
    return trained_in(tmp_path_factory.mktemp("trained") / "run")


def data(step: Path, part: str = "model") -> Path:
    files = (path for path in (step / part).rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def change(path: Path, by: Callable[[bytes], bytes]) -> None:
    path.write_bytes(by(path.read_bytes()))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


SHORT: dict[str, Callable[[Path], object]] = {
    "weights flipped": lambda step: change(data(step), flip),
    "moments cut": lambda step: change(data(step, "progress"), cut),
}
MORE: dict[str, Callable[[Path], object]] = {
    "digests cut": lambda step: change(step / FILE, cut),
    "weights cut": lambda step: change(data(step), cut),
    "moments flipped": lambda step: change(data(step, "progress"), flip),
    "weights gone": lambda step: data(step).unlink(),
    "moments gone": lambda step: shutil.rmtree(step / "progress"),
    "metadata empty": lambda step: (step / "model/_METADATA").write_bytes(b""),
    "no digests and weights cut": lambda step: (
        (step / FILE).unlink(),
        change(data(step), cut),
    ),
    "all gone": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize(
    "name", [*SHORT, *(pytest.param(name, marks=pytest.mark.faults) for name in MORE)]
)
def test_a_torn_checkpoint(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    {**SHORT, **MORE}[name](workdir / "checkpoints/4")
    with caplog.at_level(logging.WARNING, "cleanclip_jax"):
        train(small_config(), workdir)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("cleanclip_jax.start")]
    assert [line.rpartition(": ")[2] for line in said[:1]] == ["step 2 is used instead"]
    assert len(said) == 2 and "\n" not in "".join(said)
    assert state(workdir) == state(trained)
    assert figures(workdir) == figures(trained)
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["4"]


def test_nothing_whole_is_exit_code_2(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    for step in ("2", "4"):
        change(data(workdir / "checkpoints" / step), cut)
    before = sorted((workdir / "checkpoints").rglob("*"))
    with pytest.raises(UserError, match="no checkpoint is whole"):
        train(small_config(), workdir)
    assert cli.main(["evaluate", f"--workdir={workdir}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cleanclip")]
    assert len(lines) == 1 and "no checkpoint is whole (4: model/" in lines[0]
    assert sorted((workdir / "checkpoints").rglob("*")) == before
