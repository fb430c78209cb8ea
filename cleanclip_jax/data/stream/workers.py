"""Grain's worker processes, and what ends them when nobody needs them any more."""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from cleanclip_jax.errors import StartAgain, UserError
from cleanclip_jax.registry import extensions

POLL_SECONDS = 0.5

# Arrays from this size on come in shared memory. Not all: each array there costs a millisecond.
# And not none: what fills a pipe keeps a worker from ending (Python's queues are flushed first).
SHARED_BYTES = 16 << 10


class Lease:
    """Worker processes run while the lease lasts and the process that made it lives.

    Grain asks its workers to stop and waits 25 seconds for each; one that hangs in a read or is
    stopped (SIGSTOP) does not stop, and one whose parent was killed gets no request at all.
    """

    def __init__(self):
        self._path: Path | None = None

    def batches_of(self, dataset: grain.IterDataset, workers: int) -> Iterator[Any]:
        """Begins; iterates over batches (dicts of arrays) made by so many. To be closed."""
        # Grain's workers read absl flags, which only absl.app parses (grain 0.2.17 and 0.2.18).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        handle, path = tempfile.mkstemp(prefix="cleanclip-workers-")
        os.close(handle)
        self._path = Path(path)
        begin = partial(_start, self._path, os.getpid(), extensions())
        options = grain.experimental.DatasetOptions(min_shm_size=SHARED_BYTES)
        batches = grain.experimental.WithOptionsIterDataset(dataset, options)
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        try:
            made = iter(batches.mp_prefetch(processes, worker_init_fn=begin))
            with contextlib.closing(made) as iterator:
                for batch in iterator:
                    # Out of shared memory, which is released here and not in the training loop.
                    yield {key: np.array(array) for key, array in batch.items()}
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            if "exit code -15" in str(error):  # of those that have begun none ends by SIGTERM
                raise StartAgain(
                    "SIGTERM as data workers began; the same command goes on"
                ) from error
            raise UserError(
                "a data worker ended by itself, often because memory ran out: use fewer workers or "
                f"smaller batches ({error}). The same command goes on from the last checkpoint."
            ) from error
        finally:
            self.end()

    def end(self) -> None:
        """Ends the workers, whatever they do; those that are just starting end themselves."""
        if self._path is None or not self._path.exists():
            return
        begun = {int(pid) for pid in self._path.read_text().split()}
        self._path.unlink()
        for child in multiprocessing.active_children():
            if child.pid in begun:
                child.kill()


def _start(path: Path, parent: int, modules: tuple[str, ...], index: int, count: int) -> None:
    # What the user registered, which the data that comes next may name.
    for module in modules:
        import_module(module)
    # Ctrl-C goes to the whole group, and Slurm's SIGTERM to all processes of a job: the parent
    # alone answers, and needs batches for as long as it takes to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(FileNotFoundError):  # the lease has ended already
        lease = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(lease, f"{os.getpid()}\n".encode())
        os.close(lease)
    threading.Thread(target=_watch, args=(path, parent), name="lease", daemon=True).start()


def _watch(path: Path, parent: int) -> None:
    while os.getppid() == parent and path.exists():
        time.sleep(POLL_SECONDS)
    path.unlink(missing_ok=True)
    os._exit(1)
