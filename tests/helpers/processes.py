"""Runs `cleanclip` as several processes on this machine, over Gloo."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


@contextmanager
def started(
    count: int,
    words: Sequence[str],
    logs: Path,
    *,
    devices: int = 1,
    x64: bool = False,
    extra: Mapping[int, Sequence[str]] | None = None,
    module: str = "cleanclip_jax.cli",
) -> Iterator[list[subprocess.Popen]]:
    """Gives the processes of `python -m MODULE WORDS`; none outlives the block.

    Args:
      extra: words for one process alone, by its index.
    """
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_X64": str(int(x64))}
    where = f"--coordinator=localhost:{free_port()}"
    program = [sys.executable, "-m", module, *words]
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        processes = []
        for index in range(count):
            named = [where, f"--processes={count}", f"--process={index}"] if count > 1 else []
            log = stack.enter_context((logs / f"{index}.log").open("w"))
            process = subprocess.Popen(
                [*program, *named, *(extra or {}).get(index, [])],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(_end, process)
            processes.append(process)
        yield processes


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(count: int, words: Sequence[str], logs: Path, **options: Any) -> list[int]:
    """Runs to the end; returns the exit codes."""
    with started(count, words, logs, **options) as processes:
        return [process.wait(timeout=200) for process in processes]
