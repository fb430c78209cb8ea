"""What a run's time and chips come to: rates, goodput, utilisation, its starts, and a trace."""

import logging
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jax

from cleanclip_jax import __version__
from cleanclip_jax.files import writing
from cleanclip_jax.process import agreed, is_first, largest
from cleanclip_jax.workdir import PROFILE, STARTS, Workdir

log = logging.getLogger(__name__)

WARM_UP = 5  # steps before a trace: compiling, and the first batches
# What two runs of the same config differ in, of a line of metrics.jsonl.
TIMED = (
    *("time", "pairs_per_second", "step_seconds", "startup_seconds", "data_wait_share"),
    *("model_flops_utilisation", "device_memory_bytes", "goodput"),
)
# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets; a TPU v4 or v5p chip is one
# device to JAX. What is computed in float32 is set against the same peak.
PEAKS = {
    **{"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12},
    **{"TPU v5p": 459e12, "TPU v6 lite": 918e12, "TPU v6e": 918e12, "NVIDIA A100": 312e12},
    **{"NVIDIA H100 PCIe": 756e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12},
    **{"NVIDIA GH200": 989e12},
}


def peak_of(kind: str) -> float | None:
    """The peak of a `device_kind`, by the longest name that it begins with; None: not known."""
    names = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(names, key=len)] if names else None


def memory_in_use() -> int | None:
    """The most bytes that a device of this process has had in use, None where it doesn't say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return max(peaks, default=None)


def device_memory(device: Any) -> tuple[float, float]:
    """Bytes of memory that a device has, and those that are free; infinite where none says."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"], stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    facts = Path("/proc/meminfo")
    if not facts.is_file():
        return math.inf, math.inf
    # A processor's devices share the machine's.
    lines = dict(line.split(":") for line in facts.read_text().splitlines())
    there, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return there / jax.local_device_count(), free / jax.local_device_count()


def note_start(workdir: Workdir, step: int, began: float) -> None:
    """Adds a line to starts.jsonl: when, from which step, the command, versions and machines.

    Every process is to call it; the first writes.
    """
    with agreed(), writing(workdir.path):
        if is_first():
            facts = {
                "time": began,
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
                "step": step,
                "command": shlex.join(["cleanclip", *sys.argv[1:]]),
                "cleanclip_jax": __version__,
                "jax": jax.__version__,
                "python": platform.python_version(),
                "host": platform.node(),
                "device": jax.devices()[0].device_kind,
                "devices": jax.device_count(),
                "processes": jax.process_count(),
            }
            workdir.write_lines(STARTS, [*workdir.lines(STARTS), facts])


def productive_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of all steps up to the last row's, of metrics.jsonl; a row without them counts 0."""
    steps = [0, *(row["step"] for row in rows)]
    return sum(
        row.get("step_seconds", 0.0) * (row["step"] - before)
        for row, before in zip(rows, steps, strict=False)
    )


class Clock:
    """Times a run's steps, from one line of metrics.jsonl to the next.

    Args:
      workdir: with the lines `rows` of earlier starts.
      batch_size: pairs of a step.
      peak: FLOP/s of all devices; None: not known.
      began: `time.time()` of this start.
    """

    def __init__(
        self,
        workdir: Workdir,
        rows: Sequence[Mapping[str, Any]],
        batch_size: int,
        peak: float | None,
        began: float,
    ):
        self._batch_size, self._peak, self._began = batch_size, peak, began
        self._first = next((row["time"] for row in workdir.lines(STARTS)), began)
        self._productive = productive_seconds(rows)
        self._last = max((row["step"] for row in rows), default=0)
        self._startup: float | None = None
        self._restart()

    def _restart(self) -> None:
        """Counts anew, for the next line."""
        self._since, self._steps, self._waited, self._flops = time.perf_counter(), 0, 0.0, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A part whose time is no step's, as writing a checkpoint."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def count(self, waited: float, flops: float) -> None:
        """Takes a step that is done: the seconds it waited for data, and FLOPs for each pair."""
        self._steps += 1
        self._waited += waited
        self._flops += flops * self._batch_size

    def skip(self) -> None:
        """Takes that the step gets no line; the first compiles, and stays out of the rates."""
        if self._startup is None:
            self._startup = time.time() - self._began
            self._restart()

    def line(self, step: int) -> dict[str, float]:
        """The figures since the last line; all processes are to call it together."""
        # Of a step that was waited for at once the waiting for data lies before the last line.
        passed, now = max(time.perf_counter() - self._since, self._waited), time.time()
        seconds = passed / self._steps
        # The slowest process holds up the others, and the fullest device ends them all.
        share, memory = largest(self._waited / passed, memory_in_use() or 0.0)
        values = {
            "pairs_per_second": self._batch_size / seconds,
            "step_seconds": seconds,
            "data_wait_share": share,
        }
        if self._peak:
            values["model_flops_utilisation"] = self._flops / passed / self._peak
        if memory:
            values["device_memory_bytes"] = memory
        values["time"] = now
        if self._startup is None:
            self._startup = now - self._began
        if self._startup:
            values["startup_seconds"] = self._startup
            log.info("first step %.1f s after the start", self._startup)
            self._startup = 0.0
        self._productive += seconds * (step - self._last)
        self._last = step
        values["goodput"] = min(self._productive / max(now - self._first, 1e-9), 1.0)
        self._restart()
        return values


class Trace:
    """Names each step for a profiler, and traces some into WORKDIR/profile.

    The trace is for TensorBoard's profiler and Perfetto, of the first process's devices.

    Args:
      first: the run's first step in this start.
      steps: how many are traced, after some that warm up; 0: none.
    """

    def __init__(self, workdir: Workdir, first: int, steps: int):
        self._folder = str(workdir.folder(PROFILE))
        self._from = first + WARM_UP
        self._to = self._from + (steps if is_first() else 0)
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self, step: int) -> AbstractContextManager[Any]:
        """A block in which the step is dispatched: `with trace.step(7): ...`."""
        if step == self._from < self._to:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif step == self._to:
            self._stop()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("profile of steps %d to %d: %s", self._from, self._to - 1, self._folder)
