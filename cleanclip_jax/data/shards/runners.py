"""Shards made by processes of this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import Runner, too_many
from cleanclip_jax.data.shards.repack import Plan, repack_shard
from cleanclip_jax.errors import StartAgain, UserError
from cleanclip_jax.record import Source

POLL_SECONDS = 0.5


def in_processes(source: Source, workers: int) -> Runner:
    """Makes shards in so many processes of this machine, and shows how far they are.

    SIGTERM ends the work with exit code 75: the same command goes on.
    """

    def run(plan: Plan, output: Output, allowed: int) -> None:
        # Slots of plain memory: a lock would stay locked by a process that is killed. Two for
        # each shard, rows done and rows bad; the last one ends the processes.
        context = multiprocessing.get_context("spawn")
        slots = context.RawArray("q", 2 * plan.shards + 1)
        # A file instead of a terminal gets a line every half minute.
        interval = 0.2 if sys.stderr.isatty() else 30
        times = {"delay": 1, "mininterval": interval, "maxinterval": interval}
        bar = tqdm(total=plan.rows, unit="row", dynamic_ncols=True, **times)
        pool = ProcessPoolExecutor(
            min(workers, plan.shards),
            mp_context=context,
            initializer=_begin,
            initargs=(source, plan, output, slots, os.getpid()),
        )
        try:
            with _stopped_by_sigterm(output):
                pending = {pool.submit(_make, number) for number in range(plan.shards)}
                while pending:
                    done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    bar.update(sum(slots[0:-1:2]) - bar.n)
                    if (bad := sum(slots[1:-1:2])) > allowed:
                        slots[-1] = 1
                        pool.shutdown()
                        raise too_many(bad, allowed, plan, output)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker ended by itself, often because memory ran out: the same command goes on, "
                "with fewer workers if need be."
            ) from error
        finally:
            slots[-1] = 1
            pool.shutdown(cancel_futures=True)
            output.clear_scratches()
            bar.close()

    return run


@contextmanager
def _stopped_by_sigterm(output: Output) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise StartAgain(f"{output.place}: stopped by SIGTERM; the same command goes on.")

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_worker: Callable[[int], None]


def _begin(source: Source, plan: Plan, output: Output, slots: Any, parent: int) -> None:
    # Ctrl-C, and often SIGTERM, go to the whole group; the parent alone answers them, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(slots, parent), name="watch", daemon=True).start()

    def make(number: int) -> None:
        slots[2 * number] = slots[2 * number + 1] = 0

        def count(bad: bool) -> None:
            slots[2 * number] += 1
            slots[2 * number + 1] += bad

        repack_shard(source, plan, number, output, count)

    global _worker
    _worker = make


def _make(number: int) -> None:
    _worker(number)


def _watch(slots: Any, parent: int) -> None:
    """Ends this process when the work is over or its parent gone, whatever it is doing."""
    while os.getppid() == parent and not slots[-1]:
        time.sleep(POLL_SECONDS)
    os._exit(1)
