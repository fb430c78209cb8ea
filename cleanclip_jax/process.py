"""A job's process: before it touches a device, between the processes of a run, and at the end."""

import argparse
import ctypes
import hashlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cleanclip_jax.errors import INTERRUPTED, START_AGAIN, StartAgain, UserError
from cleanclip_jax.files import cache_folder

log = logging.getLogger(__name__)

CACHE_BYTES = 10 << 30  # of compiled programs; the least recently used go first
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


def begin(args: argparse.Namespace, heartbeat: int) -> None:
    """Joins the run's other processes and readies this one, before it touches a device.

    Args:
      args: with the flags of `add_flags`.
      heartbeat: seconds without a sign of life after which a process is given up.
    """
    keep_memory()
    join(args, heartbeat)
    keep_compiled()
    if jax.process_index():
        # What holds for all is logged once.
        logging.getLogger("cleanclip_jax").setLevel(logging.WARNING)


def keep_memory() -> None:
    """Keeps the memory that this process frees. To be called before JAX touches a device.

    XLA's CPU backend frees a step's memory after it, and the system clears every page again for
    the next: in a small model almost half of the time (docs/performance.md). Works with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for threshold in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h
        mallopt(threshold, 2**31 - 1)
    # glibc keeps large pieces for the main thread alone: steps are to run there, and nothing else
    # is waiting for that thread.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_compiled() -> None:
    """Keeps what JAX compiles in the cache folder: a run that was preempted compiles no more.

    JAX_COMPILATION_CACHE_DIR names another folder; set to nothing, none.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # A home shared by machines: XLA's code for one processor may not run on another.
    lines = []
    with suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    kinds = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    processor = hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()[:12]
    folder = cache_folder() / "xla" / processor
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled programs are not kept: %s: %s", folder, error.strerror)
        return
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def join(args: argparse.Namespace, heartbeat: int) -> None:
    """Joins the other processes, where there are any, before JAX touches a device."""
    flags = (args.coordinator, args.processes, args.process)
    launchers = {"SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"} & os.environ.keys()
    # Kubernetes and TPU pods need a package each.
    launchers = launchers or find_spec("kubernetes") or find_spec("libtpu")
    if flags == (None, None, None) and not launchers:
        return
    from cleanclip_jax.cluster import initialize

    initialize(*flags, heartbeat)


def is_first() -> bool:
    """Whether this process writes what all have made."""
    return jax.process_index() == 0


@contextmanager
def agreed() -> Iterator[None]:
    """A part that all processes run, and end together: the mistake of one ends all of them."""
    mistake = None
    try:
        yield
    except UserError as error:
        if jax.process_count() == 1:
            raise
        mistake = error
    if jax.process_count() > 1:
        from cleanclip_jax.cluster import end_together

        with runtime_errors():
            end_together(mistake)


def agree_on(facts: Mapping[str, str]) -> None:
    """Refuses what differs between the processes, all of which are to call this together.

    Args:
      facts: text by name, as {"config.seed": "0", "the data's fingerprint": "81f3..."}.
    """
    if jax.process_count() > 1:
        from cleanclip_jax.cluster import refuse_differences

        with runtime_errors():
            refuse_differences(facts)


def largest(*values: float) -> list[float]:
    """The largest of each value over the processes, all of which are to call this together."""
    if jax.process_count() == 1:
        return list(values)
    with runtime_errors():
        return np.asarray(multihost_utils.process_allgather(np.array(values))).max(0).tolist()


def in_turn(program: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted program that several processes run; on processors it is over when it returns.

    There XLA goes on with a large program while the next, small one begins, in an order that
    differs between processes; and Gloo tells one's messages from the other's by their order alone.
    """
    if jax.process_count() == 1 or jax.default_backend() != "cpu":
        return program
    return lambda *arguments: jax.block_until_ready(program(*arguments))


@contextmanager
def runtime_errors() -> Iterator[None]:
    """A part that may fail for want of memory (UserError) or of another process (StartAgain)."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # A program so small that it runs at once fails with a ValueError (jax 0.10.2).
        if isinstance(error, ValueError) and not _STATUS.match(str(error)):
            raise
        reason = str(error).splitlines()[0][:200]
        if "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                "the device's memory is too small for this batch: raise config.train.chunks, set "
                f"config.model.remat, or use more devices ({reason})"
            ) from None
        if jax.process_count() == 1:
            raise
        raise StartAgain(f"another process was lost ({reason})") from None


class Preemption:
    """Notices SIGTERM and Ctrl-C while it is open: the run saves its step, and leaves.

    With several processes JAX listens for SIGTERM and makes out a step, the same for all of them,
    at which they save: whichever of them got it. A second Ctrl-C leaves at once.
    """

    def __init__(self):
        self._signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        # Signals are the main thread's.
        if threading.current_thread() is threading.main_thread():
            # With several processes JAX has a handler.
            taken = (signal.SIGINT, signal.SIGTERM)[: 2 if jax.process_count() == 1 else 1]
            self._before = {number: signal.signal(number, self._notice) for number in taken}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number: int, _: object) -> None:
        self._signal = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            print("\ncleanclip: Ctrl-C: saving; again: leaving at once", file=sys.stderr)
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Whether to save and leave after `step`; every process is to call it once a step."""
        alone = self._signal != 0 and jax.process_count() == 1
        return alone or multihost_utils.reached_preemption_sync_point(step)

    def stop(self, message: str) -> StartAgain:
        """What ends the run after `reached`."""
        alone = self._signal == signal.SIGINT and jax.process_count() == 1
        name, code = ("Ctrl-C", INTERRUPTED) if alone else ("SIGTERM", START_AGAIN)
        return StartAgain(f"{name}: {message}", together=True, code=code)


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
