"""SIGTERM: the machine is wanted back, and the run saves before it goes."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notices SIGTERM while it is open.

    With several processes JAX listens for the signal and makes out a step, the same for all of
    them, at which they save: whichever of them was told.
    """

    def __init__(self):
        self._told = False
        self._before: Any = None

    def __enter__(self) -> "Preemption":
        # Signals are the main thread's; with several processes JAX has its own handler.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save and leave after `step`; to be asked once a step by every process."""
        return self._told or multihost_utils.reached_preemption_sync_point(step)
