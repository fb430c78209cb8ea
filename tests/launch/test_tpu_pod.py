"""launch/tpu_pod.sh: what it would do (--dry-run), and what it does with a stand-in for gcloud."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "launch" / "tpu_pod.sh"
SLICE = ("clip", "--zone=z", "--type=v5litepod-16", "--version=v2-alpha-tpuv5-lite")
JOB = ("--", "train", "--config=c.py", "--workdir=gs://mine/runs/a")
# Writes down its calls. Slices and their states are in states.json, the next one each time that it
# is asked. What ssh is to run runs in a home folder, but for the installation.
GCLOUD = f"""#!{sys.executable} -IS
import json, pathlib, subprocess, sys
here, argv = pathlib.Path(__file__).parent, sys.argv[1:]
with open(here / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(argv) + "\\n")
states = json.loads((here / "states.json").read_text())
if argv[3] == "describe":
    left = states[argv[2]]
    state = left.pop(0) if len(left) > 1 else left[0]
    (here / "states.json").write_text(json.dumps(states))
    print(state)
    sys.exit(not state)
if argv[3] == "ssh":
    [command] = [word[10:] for word in argv if word.startswith("--command=")]
    if "mountpoint" in command or "uv" in command:
        sys.exit(0)
    sys.exit(subprocess.run(["bash", "-c", command], cwd=here / "home").returncode)
"""
CLEANCLIP = """#!/bin/bash
trap 'echo told; sleep 0.3; exit 75' TERM
echo "started: $*"
code=$(head -n 1 ../codes) && sed -i 1d ../codes
[[ $code == stays ]] || exit "$code"
for ((t = 0; t < 400; t++)); do sleep 0.05; done
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    programs = tmp_path / "home" / "cleanclip" / ".venv" / "bin"
    programs.mkdir(parents=True)
    for file, text in ((tmp_path / "gcloud", GCLOUD), (programs / "cleanclip", CLEANCLIP)):
        file.write_text(text)
        file.chmod(0o755)
    return tmp_path


def begin(cloud: Path, *argv: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{cloud}:{os.environ['PATH']}", "POLL": "0.1"}
    return subprocess.Popen(
        ["bash", SCRIPT, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cloud,
        env=environment | {"TMPDIR": str(cloud)},
    )


def set_up(cloud: Path, slices: list[str], requests: list[str], codes: list[str | int]) -> None:
    """Says which states gcloud will tell, and how the runs on the workers will end."""
    states = {"tpu-vm": slices, "queued-resources": requests}
    (cloud / "states.json").write_text(json.dumps(states))
    (cloud / "home" / "codes").write_text("".join(f"{code}\n" for code in codes))


def run(cloud: Path, *argv: str) -> tuple[int, str, str]:
    process = begin(cloud, *argv)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def calls(cloud: Path) -> list[str]:
    """What gcloud did, in words: create, delete, scp, mount, leave, install, run."""
    told = []
    for line in (cloud / "calls.jsonl").read_text().splitlines():
        _, _, kind, verb, *rest = json.loads(line)
        assert "--zone=z" in rest
        command = next((word for word in rest if word.startswith("--command=")), "")
        if verb == "ssh":
            names = {"mount -t nfs": "mount", "kill -TERM": "leave", "uv venv": "install"}
            verb = next((name for part, name in names.items() if part in command), "run")
            assert "--worker=all" in rest
        if verb != "describe":
            told.append(f"{kind} {verb}" if verb in ("create", "delete") else verb)
    return told


TURN = ["mount", "leave", "scp", "install", "run"]


def test_dry_run_says_every_command_and_runs_none(cloud: Path):
    words = ("--config.data.train={'kind': 'csv'}",)
    code, _, said = run(
        cloud, *SLICE, "--spot", "--nfs=10.0.0.2:/a", "--delete", "--dry-run", *JOB, *words
    )
    assert code == 0 and not (cloud / "calls.jsonl").exists()
    lines = [shlex.split(line.removeprefix("+")) for line in said.splitlines()]
    assert all(line[:3] == ["gcloud", "compute", "tpus"] for line in lines)
    assert [" ".join(line[3:5]) for line in lines] == [
        *("tpu-vm describe", "queued-resources describe", "queued-resources create"),
        *("tpu-vm ssh", "tpu-vm ssh", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"),
        "queued-resources delete",
    ]
    made = lines[2][5:]
    assert made[0] == "clip" and set(made) >= {
        *("--node-id=clip", "--spot", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--zone=z"),
    }
    commands = [word[10:] for line in lines for word in line if word.startswith("--command=")]
    assert "10.0.0.2:/a /mnt/cleanclip" in commands[0]
    assert '".[tpu,gcs]"' in commands[2] and "-c constraints/py312.txt" in commands[2]
    started = next(part for part in commands[3].split(" && ") if "bin/cleanclip" in part)
    job = shlex.split(started.split(") >>cleanclip.log")[0])
    assert job == ["exec", ".venv/bin/cleanclip", *JOB[1:], *words]


def test_a_slice_that_is_there_is_used(cloud: Path):
    set_up(cloud, ["READY"], ["ACTIVE"], [0])
    code, out, _ = run(cloud, *SLICE, *JOB)
    assert code == 0
    assert calls(cloud) == TURN[1:]
    assert "started: train --config=c.py --workdir=gs://mine/runs/a" in out


@pytest.mark.slow
def test_after_a_preemption_there_is_a_new_slice_and_the_run_goes_on(cloud: Path):
    slices = ["", "CREATING", "READY", "PREEMPTED", "", "READY"]
    requests = ["", "PROVISIONING", "ACTIVE", "SUSPENDED", "", "ACTIVE"]
    set_up(cloud, slices, requests, [255, 0])
    code, out, _ = run(cloud, *SLICE, "--spot", "--nfs=h:/s", "--delete", *JOB)
    create, delete = "queued-resources create", "queued-resources delete"
    assert code == 0
    assert calls(cloud) == [create, *TURN, delete, create, *TURN, delete]
    assert out.count("started") == 2


@pytest.mark.parametrize(
    ("codes", "runs", "code"), [([2], 1, 2), ([1], 1, 1), ([75, 0], 2, 0), ([75] * 9, 2, 75)]
)
def test_it_starts_again_on_75_alone_and_not_for_ever(
    cloud: Path, codes: list[str | int], runs: int, code: int
):
    set_up(cloud, ["READY"], ["ACTIVE"], codes)
    assert run(cloud, *SLICE, "--restarts=1", *JOB)[0] == code
    assert calls(cloud).count("run") == runs


def test_a_run_whose_connection_was_lost_leaves_before_the_next_begins(cloud: Path):
    set_up(cloud, ["READY"], ["ACTIVE"], ["stays", 0])
    home = cloud / "home"
    lost = begin(cloud, *SLICE, *JOB)
    deadline = time.monotonic() + 20
    while (
        not (home / "cleanclip.log").exists()
        or "started" not in (home / "cleanclip.log").read_text()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lost.kill()  # the run is not its child, nor is it told
    code, out, _ = run(cloud, *SLICE, *JOB)
    lost.communicate(timeout=20)
    assert code == 0 and "started" in out
    assert (home / "codes").read_text() == ""


def test_a_request_that_failed_is_not_made_again(cloud: Path):
    set_up(cloud, [""], ["FAILED"], [])
    code, _, said = run(cloud, *SLICE, *JOB)
    assert code == 2 and "request for a slice failed" in said
    assert calls(cloud) == []


@pytest.mark.parametrize(
    ("argv", "wrong"),
    [
        (["--zone=z"], "slice's name"),
        (["clip", "--zone=z", *JOB], "--type"),
        ([*SLICE, "--sport", *JOB], "--sport"),
        ([*SLICE], "no job"),
        ([*SLICE, "--", "train", "--workdir=runs/a"], "--workdir=/"),
    ],
)
def test_mistakes_are_named(cloud: Path, argv: list[str], wrong: str):
    code, _, said = run(cloud, *argv)
    assert code == 2 and wrong in said and len(said.splitlines()) == 1
    assert not (cloud / "calls.jsonl").exists()
