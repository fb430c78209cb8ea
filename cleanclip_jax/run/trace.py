"""A trace of a few steps, for TensorBoard's profiler and Perfetto."""

import logging
from pathlib import Path

import jax

log = logging.getLogger(__name__)

WARM_UP = 5  # steps before: compiling, and the first batches


class Trace:
    """Traces `steps` steps of a run into `folder`; 0 traces none. The first process's devices.

    Args:
      first: the run's first step in this start.
    """

    def __init__(self, folder: Path, first: int, steps: int):
        self._folder = folder
        self._from = first + WARM_UP
        self._to = self._from + (steps if jax.process_index() == 0 else 0)
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """To be called before each step is dispatched."""
        if step == self._from < self._to:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._to:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("profile of steps %d to %d: %s", self._from, self._to - 1, self._folder)
