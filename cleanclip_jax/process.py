"""Several processes as one run: how they find each other, agree, and part."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from cleanclip_jax.errors import StartAgain, UserError

# Seconds for all processes to come together: images are pulled and packages loaded until then.
JOIN_SECONDS = 300
# Characters of a message that processes tell each other.
MESSAGE = 1000
# How XLA's errors begin.
_STATUS = re.compile("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED):")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --processes and --process to a job."""
    group = parser.add_argument_group(
        "several processes",
        "A TPU pod, Slurm and Open MPI are recognised without (docs/launch.md).",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 is")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which this is, from 0")


def start(asked: argparse.Namespace, heartbeat: int) -> None:
    """Joins the other processes, where there are any. To be called before JAX touches a device.

    Args:
      asked: with the flags of `add_flags`.
      heartbeat: seconds without a sign of life after which a process is given up.

    Raises:
      UserError: the flags don't say who is meant, or the others didn't come.
    """
    named = asked.coordinator, asked.processes, asked.process
    if any(each is not None for each in named):
        coordinator, count, index = _of_flags(*named, os.environ)
    elif cluster(os.environ):
        coordinator = count = index = None
    else:
        return
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=heartbeat,
            initialization_timeout=JOIN_SECONDS,
            # Who ends well waits so long for the others to, too.
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
    """The flags, with what they leave open as the launcher's environment says."""
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
    """What has started several processes and tells JAX where they are, or None.

    Raises:
      UserError: a launcher has, and doesn't tell where.
    """
    # Within a step: sbatch's own shell, which runs one, knows the job's number of tasks too.
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
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    chips = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    if (
        find_spec("libtpu")
        and environment.get("JAX_PLATFORMS", "tpu") != "cpu"
        and (hosts or chips)
    ):
        return "TPU"
    return None


@contextmanager
def agreed() -> Iterator[None]:
    """A part that all processes run, and end together: another's mistake is everyone's.

    Raises:
      UserError: this process's own, or the first of another's.
    """
    own = None
    try:
        yield
    except UserError as error:
        own = error
    if jax.process_count() == 1:
        if own is not None:
            raise own
        return
    said = np.zeros(MESSAGE, np.uint8)
    text = str(own).encode()[:MESSAGE] if own is not None else b""
    said[: len(text)] = np.frombuffer(text, np.uint8)
    everyone = _together(lambda: multihost_utils.process_allgather(said))
    if own is not None:
        raise own
    for index, row in enumerate(np.asarray(everyone)):
        if row.any():
            text = row.tobytes().rstrip(b"\0").decode(errors="replace")
            raise UserError(f"process {index}: {text}")


@contextmanager
def runtime_errors() -> Iterator[None]:
    """A part whose computations may fail for want of memory or of another process.

    Raises:
      UserError: the device's memory is too small.
      StartAgain: a process was lost.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # A program so small that it runs at once fails with a ValueError (jax 0.10.2).
        if isinstance(error, ValueError) and not _STATUS.match(str(error)):
            raise
        if "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                "the device's memory is too small for this batch: raise config.train.chunks, set "
                f"config.model.remat, or use more devices ({str(error).splitlines()[0][:200]})"
            ) from None
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        raise StartAgain(f"another process was lost ({reason})") from None


def _together(exchange: Callable[[], np.ndarray]) -> np.ndarray:
    with runtime_errors():
        return exchange()


def largest(*values: float) -> list[float]:
    """The largest of each value over the processes, all of which are to call this together."""
    if jax.process_count() == 1:
        return list(values)
    everyone = _together(lambda: multihost_utils.process_allgather(np.array(values)))
    return np.asarray(everyone).max(0).tolist()


def is_first() -> bool:
    """Whether this is the process that writes what all have made."""
    return jax.process_index() == 0


def leave(code: int, together: bool) -> None:
    """Ends this process, where there are several and not all is well.

    Args:
      together: whether the others end too, now: then they part in order. Else this one's sockets
        close at once, and they see it: JAX would wait for them at exit, and they for this one in
        the middle of a step.
    """
    if code and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        if together:
            with suppress(RuntimeError):
                jax.distributed.shutdown()
        os._exit(code)
