"""A background thread that keeps batches ready, and a watchdog on it."""

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

    The device's (or XLA's own) threads compute while this one decodes: Pillow and JAX both let
    go of Python's lock.

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
        self._pump = _Pump(open)
        # The thread knows the pump alone, so that a stream that was forgotten closes too.
        self._closing = weakref.finalize(self, self._pump.close)

    def __iter__(self: Own) -> Own:
        return self

    def __next__(self) -> Item:
        """The next item.

        Raises:
          UserError: when none came in time, or as the source raised it.
        """
        if not self._closing.alive:
            raise StopIteration
        began = time.monotonic()
        try:
            kind, value = self._pump.queue.get(timeout=self._timeout)
        except queue.Empty:
            if self._on_stall is not None:
                self._on_stall()
                self.close()
            else:
                self._closing.detach()
                self._pump.close(seconds=0)
            raise UserError(
                f"no batch for {self._timeout:g} s from {self._maker}: the storage stalls or a "
                "record does not end; look there, or raise the timeout."
            ) from None
        self.wait_seconds = time.monotonic() - began
        if kind == "item":
            return value
        self.close()
        raise value

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, and with it the workers. Closed twice is closed."""
        self._closing()


class _Pump:
    """The thread, and the queue it fills with ("item", item) and last with ("end", error)."""

    def __init__(self, open: Callable[[], Iterator]):
        self.queue: queue.Queue = queue.Queue(READY)
        self._open = open
        self._stop = threading.Event()
        # A daemon: a read that never returns must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        self._stop.set()
        # The thread may wait for room: emptied, it puts one more at most, and sees the stop.
        while not self.queue.empty():
            self.queue.get_nowait()
        self._thread.join(seconds)

    def _run(self) -> None:
        iterator = None
        try:
            iterator = self._open()
            for item in iterator:
                if self._stop.is_set():
                    return
                self.queue.put(("item", item))
            self._end(StopIteration())
        except BaseException as error:
            self._end(error)
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()

    def _end(self, error: BaseException) -> None:
        if not self._stop.is_set():
            self.queue.put(("end", error))
