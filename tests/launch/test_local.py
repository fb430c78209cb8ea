"""launch/local.sh with a stand-in for cleanclip: its processes, their codes, restarts, signals."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LOCAL = Path(__file__).parent.parent.parent / "launch" / "local.sh"
# What process i does is the i-th word of the first argument.
STAND_IN = r"""#!/bin/bash
trap 'echo told; exit 75' TERM
echo "start|$*|${CUDA_VISIBLE_DEVICES-unset}"
i=${*: -1} && i=${i#--process=}
IFS=, read -ra words <<<"$1"
case ${words[i]} in
exit:*) exit "${words[i]#*:}" ;;
killed) kill -KILL $$ ;;
notices) sleep 0.4 && exit 75 ;;
once) [[ -e was_here ]] || { touch was_here && exit 75; } ;;
stays) for ((t = 0; t < 400; t++)); do sleep 0.05; done ;;
deaf) trap '' TERM && for ((t = 0; t < 400; t++)); do sleep 0.05; done ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return tmp_path


def begin(folder: Path, *argv: str, **environment: str) -> subprocess.Popen[str]:
    own = {
        k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
    }
    # Tests that run in the background have Ctrl-C ignored, and bash can't trap what it is begun
    # with ignored.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            ["bash", LOCAL, *argv],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**own, "JAX_PLATFORMS": "cpu", **environment},
        )
    finally:
        signal.signal(signal.SIGINT, ours)


def run(folder: Path, *argv: str, **environment: str) -> tuple[int, str]:
    """Returns local.sh's exit code and what it said."""
    process = begin(folder, *argv, **environment)
    said = process.communicate(timeout=30)[1]
    return process.returncode, said


def started(folder: Path, index: int = 0) -> list[list[str]]:
    """The starts of a process, from its log: its arguments and GPUs."""
    lines = (folder / "logs" / f"process-{index}.log").read_text().splitlines()
    return [line.split("|")[1:] for line in lines if line.startswith("start|")]


def test_each_process_gets_its_flags_and_its_log(folder: Path):
    assert run(folder, "3", "--", "./stand-in", "ok,ok,ok", "two words") == (0, "")
    lines = [started(folder, index) for index in range(3)]
    assert all(len(line) == 1 for line in lines)
    port = lines[0][0][0].split("--coordinator=localhost:")[1].split()[0]
    for index, [[words, gpus]] in enumerate(lines):
        flags = f"--coordinator=localhost:{port} --processes=3 --process={index}"
        assert words == f"ok,ok,ok two words {flags}"
        assert gpus == "unset"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("exit:2,stays", 2),  # the mistake counts, not the 75 of the one that was told to leave
        ("stays,exit:1", 1),
        ("exit:1,exit:2", 2),
        ("killed,notices", 75),  # the other says that it's worth starting again
        ("killed,killed", 137),
        ("ok,exit:75", 75),
    ],
)
def test_one_code_for_all(folder: Path, words: str, code: int):
    assert run(folder, "2", "--restarts=0", "--", "./stand-in", words)[0] == code


def test_it_starts_again_when_it_is_worth_it_and_not_for_ever(folder: Path):
    code, said = run(folder, "2", "--restarts=2", "--", "./stand-in", "exit:75,notices")
    assert code == 75
    assert len(started(folder)) == 3 and said.count("starting again") == 2
    assert run(folder, "1", "--logs=logs", "--", "./stand-in", "exit:1")[0] == 1
    assert len(started(folder)) == 4
    assert run(folder, "1", "--restarts=1", "--", "./stand-in", "killed")[0] == 137
    assert len(started(folder)) == 6


def test_a_run_that_ends_well_the_second_time_has_ended_well(folder: Path):
    assert run(folder, "1", "--", "./stand-in", "once")[0] == 0
    assert len(started(folder)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_leave_it_tells_all_and_does_not_start_again(folder: Path, number: signal.Signals):
    process = begin(folder, "2", "--", "./stand-in", "stays,stays")
    logs = [folder / "logs" / f"process-{index}.log" for index in range(2)]
    deadline = time.monotonic() + 20
    while not all(log.exists() and "start" in log.read_text() for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert [log.read_text().count("told") for log in logs] == [1, 1]
    assert len(started(folder)) == 1


@pytest.mark.parametrize(("words", "code"), [("exit:1,deaf", 1), ("exit:75,stays", 75)])
def test_who_does_not_leave_is_ended(folder: Path, words: str, code: int):
    began = time.monotonic()
    ended, said = run(folder, "2", "--restarts=0", "--", "./stand-in", words, GRACE="1")
    assert ended == code and "process 1 ended with exit code 137" in said
    assert time.monotonic() - began < 10


def test_gpus_are_dealt_out(folder: Path):
    smi = folder / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    smi.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    argv = ("2", "--", "./stand-in", "ok,ok")
    for environment, dealt in (
        ({"JAX_PLATFORMS": ""}, ["0,1", "2,3"]),
        ({"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "4,7"}, ["4", "7"]),
        ({"JAX_PLATFORMS": "cpu"}, ["unset", "unset"]),
    ):
        assert run(folder, *argv, PATH=path, **environment) == (0, "")
        assert [started(folder, index)[-1][1] for index in range(2)] == dealt
    code, said = run(folder, "3", "--", "./stand-in", "ok", PATH=path, JAX_PLATFORMS="")
    assert code == 2 and "4 GPUs" in said


@pytest.mark.parametrize(
    ("argv", "wrong"),
    [
        ([], "N is ''"),
        (["two", "--", "x"], "N is 'two'"),
        (["2", "--restart=1", "--", "x"], "--restart=1"),
        (["2", "--restarts=1"], "no command"),
    ],
)
def test_mistakes_are_named(folder: Path, argv: list[str], wrong: str):
    code, said = run(folder, *argv)
    assert code == 2 and wrong in said and len(said.splitlines()) == 1
