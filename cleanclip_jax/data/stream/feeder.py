"""A background thread that keeps batches ready, and a watchdog on it."""

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from cleanclip_jax.errors import UserError

Item = TypeVar("Item")
# typing.Self is not understood by the tests' type checks.
Own = TypeVar("Own", bound="Stream[Any]")

READY = 2
# Seconds that close() waits for the batch under way, and Grain for its workers.
CLOSE_SECONDS = 40.0


class Stream(Generic[Item]):
    """Iterates over what `open()` gives, in a thread and two items ahead; a context manager.

    The device (or XLA's threads) computes while this one decodes: Pillow and JAX both release
    Python's lock.

    Args:
      open: called in the thread; its iterator is closed there too, if it can be.
      timeout: seconds without an item after which next() raises UserError.
      maker: what the message then names: "4 workers".
      on_stall: called then, to end what hangs; None: it cannot be ended, and is left alone.

    Attributes:
      wait_seconds: what the last next() waited.
    """

    def __init__(
        self,
        open: Callable[[], Iterator[Item]],
        *,
        timeout: float = 120.0,
        maker: str = "the source",
        on_stall: Callable[[], None] | None = None,
    ):
        self.wait_seconds = 0.0
        self._timeout, self._maker, self._on_stall = timeout, maker, on_stall
        # What the thread puts in: (item, None), and last (None, error).
        self._ready: queue.Queue = queue.Queue(READY)
        self._stop = threading.Event()
        # A daemon: a read that never returns must not keep the program from ending. It doesn't
        # know the stream, so that one that was forgotten closes too.
        arguments = (open, self._ready, self._stop)
        thread = threading.Thread(target=_fill, args=arguments, name="batches", daemon=True)
        thread.start()
        self._closing = weakref.finalize(self, _close, self._ready, self._stop, thread)

    def __iter__(self: Own) -> Own:
        return self

    def __next__(self) -> Item:
        """The next item; raises UserError when none came in time, or what the source raised."""
        if not self._closing.alive:
            raise StopIteration
        began = time.monotonic()
        try:
            item, error = self._ready.get(timeout=self._timeout)
        except queue.Empty:
            if self._on_stall is not None:
                self._on_stall()
                self.close()
            else:
                self._closing.detach()
                self._stop.set()
            raise UserError(
                f"no batch for {self._timeout:g} s from {self._maker}: the storage stalls, a "
                "record does not end or a worker was stopped; look there, or raise the timeout."
            ) from None
        self.wait_seconds = time.monotonic() - began
        if error is None:
            return item
        self.close()
        raise error

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, and with it the workers. Closed twice is closed."""
        self._closing()


def _fill(open: Callable[[], Iterator], ready: queue.Queue, stop: threading.Event) -> None:
    iterator, end = None, StopIteration()
    try:
        iterator = open()
        for item in iterator:
            if stop.is_set():
                break
            ready.put((item, None))
    except BaseException as error:
        end = error
    if not stop.is_set():
        ready.put((None, end))
    if (close := getattr(iterator, "close", None)) is not None:
        close()


def _close(ready: queue.Queue, stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    # The thread may wait for room: emptied, it puts one more at most, and sees the stop.
    with contextlib.suppress(queue.Empty):
        while True:
            ready.get_nowait()
    thread.join(CLOSE_SECONDS)
