"""What a run writes down of itself: metrics.jsonl, bad_rows.jsonl, not_finite.json, progress."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import append_line, read_lines, write_whole
from cleanclip_jax.process import largest
from cleanclip_jax.run.boards import Boards
from cleanclip_jax.run.clock import memory_in_use
from cleanclip_jax.run.launches import first_start

log = logging.getLogger(__name__)

NOT_FINITE = "not_finite.json"
# What two runs of the same config differ in.
TIMED = (
    "time",
    "pairs_per_second",
    "step_seconds",
    "startup_seconds",
    "data_wait_share",
    "model_flops_utilisation",
    "device_memory_bytes",
    "goodput",
)


class BadRows:
    """Writes bad_rows.jsonl: each record that a run could not read, named once.

    {"index", "where", "reason"}, in the order in which they were met, over all resumptions. Other
    processes than the first have files of their own, bad_rows.1.jsonl and so on.
    """

    def __init__(self, workdir: Path, process: int):
        self._path = workdir / (f"bad_rows.{process}.jsonl" if process else "bad_rows.jsonl")
        rows = read_lines(self._path)
        self._known = {row["index"] for row in rows}
        if rows:  # without a torn last line, which the next would be appended to
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def __call__(self, index: int, where: str, reason: str) -> None:
        """Notes record `index`, unless it is noted."""
        if index in self._known:
            return
        self._known.add(index)
        row = {"index": index, "where": where, "reason": reason}
        append_line(self._path, json.dumps(row) + "\n")


@dataclass(frozen=True)
class Done:
    """A step that was dispatched: its number, its metrics on the device, and how it came about.

    Attributes:
      waited: seconds that it waited for data.
      index: the records of this process's rows.
      flops: that training on each of its pairs takes.
    """

    step: int
    metrics: Mapping[str, jax.Array]
    waited: float
    index: Int64[np.ndarray, " b"]
    flops: float = 0.0


class Recorder:
    """Writes metrics, a line every `log_every` steps, and refuses a loss that is not finite.

    A run that resumes at `first_step` first cuts off what it had written beyond, so that no
    step stands there twice. Other processes than the first write nothing but not_finite.json.

    Args:
      boards: opened where metrics are written; None: metrics.jsonl alone.
      peak: FLOP/s of all devices; None: not known.
      began: `time.time()` of this start.
    """

    def __init__(
        self,
        workdir: Path,
        first_step: int,
        total_steps: int,
        *,
        log_every: int,
        batch_size: int,
        boards: Callable[[], Boards] | None = None,
        peak: float | None = None,
        began: float | None = None,
    ):
        self._workdir, self._total, self._log_every = workdir, total_steps, log_every
        self._batch_size, self._peak = batch_size, peak
        self._began = time.time() if began is None else began
        self._bar = self._file = self._boards = None
        if jax.process_index() == 0:
            path = workdir / "metrics.jsonl"
            kept = [row for row in read_lines(path) if row["step"] <= first_step]
            write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
            (workdir / NOT_FINITE).unlink(missing_ok=True)
            self._boards = None if boards is None else boards()
            self._file = path
            # A file instead of a terminal gets a line every half minute.
            interval = 0.2 if sys.stderr.isatty() else 30
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                unit="step",
                dynamic_ncols=True,
                mininterval=interval,
                maxinterval=interval,
            )
            self._origin = first_start(workdir, self._began)
            self._productive = productive_seconds(kept)
            self._last = max((row["step"] for row in kept), default=0)
        self._startup: float | None = None
        self._begin()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self._bar, self._boards):
            if part is not None:
                part.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A part whose time is no step's, as writing a checkpoint."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def record(self, done: Done) -> None:
        """Takes a step that is done, or waits until it is.

        Raises:
          UserError: the loss or the gradient is not finite.
        """
        values = {name: float(value) for name, value in jax.device_get(dict(done.metrics)).items()}
        finite = math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])
        if self._bar is not None:
            self._bar.update()
        self._steps += 1
        self._waited += done.waited
        self._flops += done.flops * self._batch_size
        if not finite or done.step % self._log_every == 0 or done.step == self._total:
            self._write(done.step, values)
        elif self._startup is None:
            # The first step compiles: it says nothing of the others.
            self._startup = time.time() - self._began
            self._begin()
        if not finite:
            self._refuse(done, values)

    def _write(self, step: int, values: dict[str, float]) -> None:
        passed = time.perf_counter() - self._since
        seconds = passed / self._steps
        values["pairs_per_second"] = self._batch_size / seconds
        values["step_seconds"] = seconds
        # The slowest process holds up the others, and the fullest device ends them all.
        share, memory = largest(min(self._waited / passed, 1.0), memory_in_use() or 0.0)
        values["data_wait_share"] = share
        if self._peak:
            values["model_flops_utilisation"] = self._flops / passed / self._peak
        if memory:
            values["device_memory_bytes"] = memory
        if self._file is not None and self._bar is not None:
            now = time.time()
            values["time"] = now
            if self._startup is None:
                self._startup = now - self._began
            if self._startup:
                values["startup_seconds"] = self._startup
                log.info("first step %.1f s after the start", self._startup)
                self._startup = 0.0
            self._productive += seconds * (step - self._last)
            self._last = step
            values["goodput"] = min(self._productive / max(now - self._origin, 1e-9), 1.0)
            # JSON has no NaN: a line that can't be read back would hide the step that matters.
            safe = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
            append_line(self._file, json.dumps({"step": step, **safe}) + "\n")
            if self._boards is not None:
                self._boards.add(step, values)
            self._bar.set_postfix_str(_said(values), refresh=False)
        self._begin()

    def _begin(self) -> None:
        """Counts anew, for the next line."""
        self._since, self._steps, self._waited, self._flops = time.perf_counter(), 0, 0.0, 0.0

    def _refuse(self, done: Done, values: Mapping[str, float]) -> None:
        """Writes down which pairs the step had, and ends the run."""
        process = jax.process_index()
        name = NOT_FINITE.replace(".json", f".{process}.json") if process else NOT_FINITE
        facts = {
            "step": done.step,
            **{
                key: values[key] if math.isfinite(values[key]) else str(values[key])
                for key in ("loss", "gradient_norm")
            },
            "index": done.index.tolist(),
        }
        write_whole(self._workdir / name, json.dumps(facts) + "\n")
        raise UserError(
            f"the loss ({values['loss']}) or its gradient ({values['gradient_norm']}) is not "
            f"finite at step {done.step}; the last good checkpoint is kept, the batch's indices "
            f"are in {self._workdir / name}: try a lower config.optimizer.learning_rate or more "
            "warmup_steps"
        )


def _said(values: Mapping[str, float]) -> str:
    parts = [f"loss {values['loss']:.3f}", f"{values['pairs_per_second']:,.0f} pairs/s"]
    if "model_flops_utilisation" in values:
        parts.append(f"{values['model_flops_utilisation']:.0%} of the chip")
    return ", ".join([*parts, f"{values['data_wait_share']:.0%} waiting for data"])


def productive_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of all steps up to the last row's; rows written before this was kept count 0."""
    total, last = 0.0, 0
    for row in rows:
        total += row.get("step_seconds", 0.0) * (row["step"] - last)
        last = row["step"]
    return total
