"""Several processes as one run: how they find each other, and how they agree."""

import json
import os
from collections.abc import Mapping
from glob import glob
from importlib.util import find_spec

import jax
import numpy as np
from jax.experimental import multihost_utils

from cleanclip_jax.errors import UserError

JOIN_SECONDS = 300  # images are pulled and packages loaded until then


def initialize(
    coordinator: str | None, count: int | None, index: int | None, heartbeat: int
) -> None:
    """Joins the other processes, which the flags or a launcher's environment name."""
    if any(flag is not None for flag in (coordinator, count, index)):
        coordinator, count, index = _of_flags(coordinator, count, index, os.environ)
    elif not cluster(os.environ):
        return
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=heartbeat,
            initialization_timeout=JOIN_SECONDS,
            # A process that ends well waits so long for the others to do so.
            shutdown_timeout_seconds=heartbeat,
        )
        jax.devices()
    except (RuntimeError, ValueError) as error:
        where = f" at {coordinator}" if coordinator else ""
        raise UserError(
            f"the processes did not find each other{where}: {str(error).splitlines()[0]}; see that "
            "all run and reach the first, or name them with --coordinator, --processes, --process"
        ) from None


def _of_flags(
    coordinator: str | None, count: int | None, index: int | None, environment: Mapping[str, str]
) -> tuple[str, int, int]:
    """The flags; what they leave open comes from the launcher's environment."""
    for number, rank in (
        ("SLURM_NTASKS", "SLURM_PROCID"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ):
        if count is None and index is None and number in environment and rank in environment:
            count, index = int(environment[number]), int(environment[rank])
    if coordinator is None or count is None or index is None:
        raise UserError("--coordinator, --processes and --process belong together: give all three")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator}: it takes HOST:PORT, as node1:12345")
    if not 0 <= index < count:
        raise UserError(f"--process={index}: with --processes={count} it is 0 to {count - 1}")
    return coordinator, count, index


def cluster(environment: Mapping[str, str]) -> str | None:
    """The launcher of several processes that tells JAX where they are, or None."""
    # Within a step: sbatch's shell, which runs one, knows the job's number of tasks too.
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in environment:
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environment:
            raise UserError(
                "this Open MPI doesn't tell where the first process is: add "
                "--coordinator=HOST:PORT with its host and a free port"
            )
        return "Open MPI"
    if "KUBERNETES_SERVICE_HOST" in environment and find_spec("kubernetes"):
        return "Kubernetes"
    chips = environment.get("TPU_WORKER_HOSTNAMES") or glob("/dev/accel0") or glob("/dev/vfio/0")
    wanted = environment.get("JAX_PLATFORMS", "tpu") != "cpu"
    return "TPU" if chips and wanted and find_spec("libtpu") else None


def end_together(mistake: UserError | None) -> None:
    """Raises the mistake of this process, else the first of another; all are to call this."""
    texts = _exchange(str(mistake or ""))
    if mistake is not None:
        raise mistake
    for index, text in enumerate(texts):
        if text:
            raise UserError(f"process {index}: {text}")


def refuse_differences(facts: Mapping[str, str]) -> None:
    """Refuses what differs between the processes (process.agree_on)."""
    first, *others = (json.loads(text) for text in _exchange(json.dumps(dict(facts))))
    for index, other in enumerate(others, 1):
        for name in {**first, **other}:
            here, there = first.get(name, "not given"), other.get(name, "not given")
            if here != there:
                raise UserError(
                    f"{name} differs between the processes: {here:.80} on process 0, {there:.80} "
                    f"on process {index}; give all of them the same command, files and data"
                )


def _exchange(text: str) -> list[str]:
    """Each process's text, in their order."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = _gather(np.array(data.size, np.int32))
    rows = np.zeros(lengths.max(), np.uint8)
    rows[: data.size] = data
    texts = _gather(rows) if rows.size else np.zeros((lengths.size, 0), np.uint8)
    return [row[:size].tobytes().decode() for row, size in zip(texts, lengths, strict=True)]


def _gather(values: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(values))
