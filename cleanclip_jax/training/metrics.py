"""What a run writes down of itself: metrics.jsonl, bad_rows.jsonl, TensorBoard, progress."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl or bad_rows.jsonl, but for a last one torn by a kill.

    Raises:
      UserError: another line is not readable.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path} line {number} is not JSON: mend or move it") from None
    return rows


class BadRows:
    """Writes bad_rows.jsonl: each record that a run could not read, named once.

    {"index", "where", "reason"}, in the order in which they were met, over all resumptions. Other
    processes than the first have files of their own, bad_rows.1.jsonl and so on.
    """

    def __init__(self, workdir: Path, process: int):
        self._path = workdir / (f"bad_rows.{process}.jsonl" if process else "bad_rows.jsonl")
        rows = read_metrics(self._path)
        self._known = {row["index"] for row in rows}
        if rows:  # without a torn last line, which the next would be appended to
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def __call__(self, index: int, where: str, reason: str) -> None:
        """Notes record `index`, unless it is noted."""
        if index in self._known:
            return
        self._known.add(index)
        with self._path.open("a") as file:
            file.write(json.dumps({"index": index, "where": where, "reason": reason}) + "\n")


class Recorder:
    """Writes metrics, a line every `log_every` steps, and refuses a loss that is not finite.

    A run that resumes at `first_step` first cuts off what it had written beyond, so that no
    step stands there twice.
    """

    def __init__(
        self, workdir: Path, first_step: int, total_steps: int, log_every: int, batch_size: int
    ):
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= first_step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
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
        self._total, self._log_every, self._batch_size = total_steps, log_every, batch_size
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()
        self._board.close()

    def record(self, step: int, metrics: Mapping[str, jax.Array], waited: float) -> None:
        """Takes the metrics of the step that led to `step`, and the seconds it waited for data.

        Raises:
          UserError: the loss or the gradient is not finite.
        """
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self._bar.update()
        self._steps += 1
        self._waited += waited
        finite = math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])
        if finite and step % self._log_every and step != self._total:
            return
        passed = time.perf_counter() - self._since
        values["pairs_per_second"] = self._steps * self._batch_size / passed
        values["data_wait_share"] = min(self._waited / passed, 1.0)
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0
        # JSON has no NaN: a line that can't be read back would hide the step that matters.
        safe = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **safe}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        rate, share = values["pairs_per_second"], values["data_wait_share"]
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {rate:,.0f} pairs/s, {share:.0%} waiting for data",
            refresh=False,
        )
        if not finite:
            raise UserError(
                f"the loss ({values['loss']}) or its gradient ({values['gradient_norm']}) is not "
                f"finite at step {step}; the last good checkpoint is kept: try a lower "
                "config.optimizer.learning_rate or more warmup_steps"
            )
