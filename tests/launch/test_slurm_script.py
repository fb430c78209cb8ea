"""launch/slurm.sbatch with stand-ins for srun and scontrol; on a real Slurm: make test-slurm."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "launch" / "slurm.sbatch"
SRUN = """#!/bin/bash
printf '%s\\n' "$@" >srun.txt
# As Slurm does when it takes a job away: the script is signalled, the tasks save and end.
[[ -z ${TAKEN:-} ]] || { kill -TERM $PPID && sleep 0.3; }
exit "${CODE:-0}"
"""
SCONTROL = '#!/bin/bash\necho "$*" >>scontrol.txt\n'


def run(folder: Path, *argv: str, **environment: str) -> tuple[int, str]:
    """Returns the script's exit code and what it said; what it called lies in `folder`."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    given = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    given |= {"SLURM_TASKS_PER_NODE": "2(x3),1"} | environment
    done = subprocess.run(
        ["bash", SCRIPT, *argv], capture_output=True, text=True, cwd=folder, env=given, timeout=20
    )
    return done.returncode, done.stdout + done.stderr


def called(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_the_command_comes_after_the_scripts_name(tmp_path: Path):
    code, _ = run(tmp_path, "evaluate", "--workdir=two words", SLURM_CPUS_PER_TASK="6")
    flags = ["--kill-on-bad-exit=0", "--wait=300", "--cpus-per-task=6"]
    assert code == 0
    assert called(tmp_path, "srun") == [*flags, "cleanclip", "evaluate", "--workdir=two words"]


def test_or_in_the_environment(tmp_path: Path):
    given = {"CONFIG": "c.py:wanet", "WORKDIR": "/w", "ARGS": "--config.seed=1 --config.a=2"}
    run(tmp_path, CLEANCLIP="/bin/cc", SRUN_ARGS="--container-image=x --label", **given)
    words = ["--container-image=x", "--label", "/bin/cc", "train", "--config=c.py:wanet"]
    words += ["--workdir=/w", "--config.seed=1", "--config.a=2"]
    assert called(tmp_path, "srun")[2:] == words


@pytest.mark.parametrize(
    ("given", "again"),
    [
        ({"CODE": "0"}, False),
        ({"CODE": "1"}, False),
        ({"CODE": "2"}, False),
        ({"CODE": "75"}, True),
        ({"CODE": "137"}, True),  # of a task that was killed; srun gives the highest code
        ({"CODE": "75", "TAKEN": "yes"}, False),  # Slurm does it itself, or it was cancelled
        ({"CODE": "75", "SLURM_RESTART_COUNT": "2", "RESTARTS": "3"}, True),
    ],
)
def test_it_queues_itself_again(tmp_path: Path, given: dict[str, str], again: bool):
    code, said = run(tmp_path, "train", **given)
    assert code == int(given["CODE"])
    assert called(tmp_path, "scontrol") == (["requeue 7"] if again else [])
    assert f"exit code {code}" in said


def test_not_for_ever(tmp_path: Path):
    code, said = run(tmp_path, "train", CODE="75", SLURM_RESTART_COUNT="3", RESTARTS="3")
    assert code == 2 and "no more" in said
    assert called(tmp_path, "scontrol") == []


@pytest.mark.parametrize(
    ("argv", "given", "wrong"),
    [
        ([], {}, "CONFIG and WORKDIR"),
        (["train"], {"SLURM_GPUS_PER_TASK": "1"}, "--gpus-per-task"),
        (["train"], {"SLURM_GPUS_ON_NODE": "8"}, "--ntasks-per-node=8"),
    ],
)
def test_mistakes_start_nothing(tmp_path: Path, argv: list[str], given: dict[str, str], wrong: str):
    code, said = run(tmp_path, *argv, **given)
    assert code == 2 and wrong in said and len(said.splitlines()) == 1
    assert called(tmp_path, "srun") == []


def test_what_slurm_is_asked_for():
    asked = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line[:7] == "#SBATCH"]
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= set(asked)
    assert not any("gpu" in word or "gres" in word for word in asked)  # runs where there are none
