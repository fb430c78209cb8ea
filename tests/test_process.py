"""How processes are named and recognised, and what one keeps; together: faults/test_processes."""

import os
import platform
import signal
import subprocess
import sys
from argparse import ArgumentParser

import jax
import pytest

from cleanclip_jax.cluster import cluster
from cleanclip_jax.config import defaults, override
from cleanclip_jax.errors import UserError
from cleanclip_jax.process import (
    Preemption,
    add_flags,
    agree_on,
    in_turn,
    join,
    keep_compiled,
)

SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "node[1-4]"}


@pytest.fixture
def started(monkeypatch):
    """The calls of jax.distributed.initialize, which does nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **o: calls.append((a, o)))
    for name in (*SLURM, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


def join_with(*words: str) -> None:
    parser = ArgumentParser()
    add_flags(parser)
    join(parser.parse_args(words), heartbeat=60)


def test_one_process_joins_nobody(started):
    join_with()
    assert not started


def test_flags_name_all(started):
    join_with("--coordinator=node1:1234", "--processes=4", "--process=3")
    ((arguments, options),) = started
    assert arguments == ("node1:1234", 4, 3) and options["heartbeat_timeout_seconds"] == 60


def test_the_launcher_gives_what_the_flags_leave_open(started, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    join_with("--coordinator=node1:1234")
    join_with()
    assert [arguments for arguments, _ in started] == [("node1:1234", 4, 2), (None, None, None)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes=2"], "belong together"),
        (["--coordinator=node1", "--processes=2", "--process=0"], "HOST:PORT"),
        (["--coordinator=node1:1", "--processes=2", "--process=2"], "it is 0 to 1"),
    ],
)
def test_wrong_flags_are_one_line(started, words, message):
    with pytest.raises(UserError, match=message):
        join_with(*words)
    assert not started


def test_clusters_are_recognised_by_what_they_set():
    assert cluster(SLURM) == "Slurm" and cluster({**SLURM, "SLURM_NTASKS": "1"}) is None
    # In sbatch's own shell there is no step yet: what runs there is one process.
    assert cluster({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert cluster({**mpi, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9"}) == "Open MPI"
    with pytest.raises(UserError, match="--coordinator=HOST:PORT"):
        cluster(mpi)


def test_heartbeat_of_a_command_line():
    config = defaults()
    assert config.mesh.heartbeat > 7
    override(config, "mesh.heartbeat", "7")
    assert config.mesh.heartbeat == 7
    with pytest.raises(UserError, match=r"mesh\.heartbeat"):
        override(config, "mesh.heartbeat", "soon")


def test_one_process_agrees_with_itself():
    agree_on({"config.seed": "0"})


FAULTS = """
import resource
import numpy as np
from cleanclip_jax.process import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(200 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
keep_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_freed_stays():
    """To get it anew costs a fault a page."""
    without, kept = map(int, subprocess.check_output([sys.executable, "-c", FAULTS]).split())
    assert kept < 100 < without


def test_compiled_programs_are_kept_where_the_variable_says(tmp_path, monkeypatch, caplog):
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_compiled()
    assert not set_to
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
    keep_compiled()
    assert set_to["jax_compilation_cache_dir"].startswith(str(tmp_path / "cache/xla"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "file"))
    keep_compiled()
    assert "compiled programs are not kept" in caplog.text


# What Linux alone has is taken away; imports and what the command line does first go well.
ELSEWHERE = """
import ctypes, os, pathlib, sys
import jax, grain, fcntl, orbax.checkpoint, cv2, array_record, matplotlib.pyplot
for name in ("sched_getaffinity", "posix_fadvise", "memfd_create", "O_DIRECT", "sendfile"):
    if hasattr(os, name):
        delattr(os, name)
read = pathlib.Path.read_text
def read_text(path, *args, **options):
    if str(path).startswith("/proc/"):
        raise FileNotFoundError(str(path))
    return read(path, *args, **options)
pathlib.Path.read_text = read_text
class Library:
    pass
ctypes.CDLL = lambda *_: Library()
import cleanclip_jax.process as process, cleanclip_jax.jobs.prepare as prepare
process.keep_memory()
process.keep_compiled()
assert prepare.cores() >= 1
import importlib, cleanclip_jax.cli as cli
for job in cli.JOBS:
    importlib.import_module(f"cleanclip_jax.jobs.{job}")
"""


@pytest.mark.slow
def test_nothing_that_linux_alone_has_is_needed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        env=os.environ | {"CLEANCLIP_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("number", "name", "code"), [(2, "Ctrl-C", 130), (15, "SIGTERM", 75)])
def test_a_signal_saves_the_step_and_leaves(number, name, code, capsys):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.reached(6)
        os.kill(os.getpid(), number)
        assert preemption.reached(7)
        error = preemption.stop("saved step 7 of 9")
        assert (str(error), error.code) == (f"{name}: saved step 7 of 9", code)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                signal.pause()
    assert signal.getsignal(number) == before
    assert ("again: leaving at once" in capsys.readouterr().err) == (number == signal.SIGINT)


def test_only_several_processes_on_processors_wait_for_a_program(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", lambda result: waited.append(result) or result)
    program = jax.jit(lambda x: x + 1)
    assert in_turn(program) is program
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert in_turn(program)(1) == 2 and len(waited) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert in_turn(program) is program
