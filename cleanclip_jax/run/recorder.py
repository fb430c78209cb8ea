"""What a run writes down: metrics.jsonl, boards, bad_rows.jsonl, not_finite.json, and progress."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.process import agreed, is_first
from cleanclip_jax.run.clock import Clock
from cleanclip_jax.workdir import BAD_ROWS, METRICS, NOT_FINITE, TENSORBOARD, Workdir


class BadRows:
    """Writes bad_rows.jsonl: each record that a run could not read, named once.

    {"index", "where", "reason"}, in the order in which they were met, over all resumptions. Other
    processes than the first have their files: bad_rows.1.jsonl and so on. All are to make theirs
    together.

    Attributes:
      beside: those of other runs that read the same stream.
    """

    def __init__(self, workdir: Workdir, process: int):
        self.beside: list[BadRows] = []
        self._workdir, self._name = workdir, _of_process(BAD_ROWS, process)
        with agreed(), writing(workdir.path):
            rows = workdir.lines(self._name)
            self._known = {row["index"] for row in rows}
            if rows:  # without a torn last line, which the next would be appended to
                workdir.write_lines(self._name, rows)

    def __call__(self, index: int, where: str, reason: str) -> None:
        """Notes record `index`, unless it is noted."""
        if index not in self._known:
            self._known.add(index)
            row = {"index": index, "where": where, "reason": reason}
            self._workdir.append(self._name, row)
        for other in self.beside:
            other(index, where, reason)


def _of_process(name: str, process: int) -> str:
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{process}.{ending}" if process else name


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
    step stands there twice. Other processes than the first write nothing but not_finite.json; all
    are to make theirs together.

    Args:
      boards: opened where metrics are written; None: metrics.jsonl alone.
      peak: FLOP/s of all devices; None: not known.
      began: `time.time()` of this start.
    """

    def __init__(
        self,
        workdir: Workdir,
        first_step: int,
        total_steps: int,
        *,
        log_every: int,
        batch_size: int,
        boards: Callable[[], "Boards"] | None = None,
        peak: float | None = None,
        began: float | None = None,
    ):
        self._workdir, self._total, self._log_every = workdir, total_steps, log_every
        self._bar = self._boards = None
        self._late: Done | None = None
        rows = []
        with agreed(), writing(workdir.path):
            if is_first():
                rows = [row for row in workdir.lines(METRICS) if row["step"] <= first_step]
                workdir.write_lines(METRICS, rows)
                workdir.remove(NOT_FINITE)
                self._boards = None if boards is None else boards()
        if is_first():
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
        began = time.time() if began is None else began
        self._clock = Clock(workdir, rows, batch_size, peak, began)
        self.paused = self._clock.paused

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self._bar, self._boards):
            if part is not None:
                part.close()

    def take(self, done: Done) -> None:
        """Takes a step that was dispatched, and records the one before it.

        One that has run already, as on a processor, is recorded at once: its time is its own.
        """
        self.catch_up()
        self._late = done
        arrays: list[Any] = [x for x in done.metrics.values() if isinstance(x, jax.Array)]
        if all(array.is_ready() for array in arrays):
            self.catch_up()

    def catch_up(self) -> None:
        """Records the step that was taken last, if that is still to be done."""
        if (late := self._late) is not None:
            self._late = None
            self.record(late)

    def record(self, done: Done) -> None:
        """Records a step that is done, or waits until it is. UserError: it is not finite."""
        values = {name: float(value) for name, value in jax.device_get(dict(done.metrics)).items()}
        finite = math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])
        if self._bar is not None:
            self._bar.update()
        self._clock.count(done.waited, done.flops)
        if not finite or done.step % self._log_every == 0 or done.step == self._total:
            self._write(done.step, values | self._clock.line(done.step))
        else:
            self._clock.skip()
        if not finite:
            self._refuse(done, values)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._bar is None:
            return
        self._workdir.append(METRICS, {"step": step, **_safe(values)})
        if self._boards is not None:
            self._boards.add(step, values)
        parts = [f"loss {values['loss']:.3f}", f"{values['pairs_per_second']:,.0f} pairs/s"]
        if "model_flops_utilisation" in values:
            parts.append(f"{values['model_flops_utilisation']:.0%} of the chip")
        parts.append(f"{values['data_wait_share']:.0%} waiting for data")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)

    def _refuse(self, done: Done, values: Mapping[str, float]) -> None:
        """Writes down which pairs the step had, and ends the run."""
        name = _of_process(NOT_FINITE, jax.process_index())
        figures = _safe({key: values[key] for key in ("loss", "gradient_norm")})
        facts = {"step": done.step, **figures, "index": done.index.tolist()}
        self._workdir.write(name, json.dumps(facts) + "\n")
        raise UserError(
            f"the loss ({values['loss']}) or its gradient ({values['gradient_norm']}) is not "
            f"finite at step {done.step}; the last good checkpoint is kept, the batch's indices "
            f"are in {self._workdir / name}: try a lower config.optimizer.learning_rate or more "
            "warmup_steps"
        )


def _safe(values: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no NaN: a line that can't be read back would hide the step that matters."""
    return {k: v if math.isfinite(v) else str(v) for k, v in values.items()}


class Boards:
    """Shows scalars by step in TensorBoard and, with a `project`, in Weights & Biases.

    A run that resumes writes on from its step.
    """

    def __init__(
        self, workdir: Workdir, first_step: int, project: str | None, config: Mapping[str, Any]
    ):
        self._run = None
        if project is not None:
            from cleanclip_jax.run.weights_and_biases import open_board

            self._run = open_board(workdir, project, config)
        folder = str(workdir.folder(TENSORBOARD))
        self._board = _tensorboardx().SummaryWriter(folder, purge_step=first_step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Writes out what is left."""
        self._board.close()
        if self._run is not None:
            self._run.finish()


def _tensorboardx() -> Any:
    """tensorboardX without PyTorch, which it imports where there is one and needs for no scalar.

    That import takes longer than JAX's.
    """
    if "torch" in sys.modules:
        return import_module("tensorboardX")
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    try:
        return import_module("tensorboardX")
    finally:
        del modules["torch"]
