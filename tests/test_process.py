"""How processes are named and recognised; that they work together: faults/test_processes.py."""

from argparse import ArgumentParser

import pytest

from cleanclip_jax import process as distributed
from cleanclip_jax.errors import UserError
from cleanclip_jax.process import add_flags, cluster, start

SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "node[1-4]"}


@pytest.fixture
def started(monkeypatch):
    """What JAX was asked for, in place of asking it."""
    calls = []
    monkeypatch.setattr(
        distributed.jax.distributed, "initialize", lambda *a, **o: calls.append((a, o))
    )
    for name in (*SLURM, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


def begin(*words: str) -> None:
    parser = ArgumentParser()
    add_flags(parser)
    start(parser.parse_args(words), heartbeat=60)


def test_one_process_asks_nobody(started):
    begin()
    assert not started


def test_flags_name_all(started):
    begin("--coordinator=node1:1234", "--processes=4", "--process=3")
    ((arguments, options),) = started
    assert arguments == ("node1:1234", 4, 3) and options["heartbeat_timeout_seconds"] == 60


def test_a_launcher_tells_what_the_flags_leave_open(started, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    begin("--coordinator=node1:1234")
    begin()
    assert [arguments for arguments, _ in started] == [("node1:1234", 4, 2), (None, None, None)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes=2"], "belong together"),
        (["--coordinator=node1", "--processes=2", "--process=0"], "HOST:PORT"),
        (["--coordinator=node1:1", "--processes=2", "--process=2"], "it is 0 to 1"),
    ],
)
def test_mistakes_are_one_line(started, words, message):
    with pytest.raises(UserError, match=message):
        begin(*words)
    assert not started


def test_clusters_are_recognised_by_what_they_set():
    assert cluster(SLURM) == "Slurm" and cluster({**SLURM, "SLURM_NTASKS": "1"}) is None
    # In sbatch's own shell there is no step yet: what runs there is one process.
    assert cluster({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert cluster({**mpi, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9"}) == "Open MPI"
    with pytest.raises(UserError, match="--coordinator=HOST:PORT"):
        cluster(mpi)
