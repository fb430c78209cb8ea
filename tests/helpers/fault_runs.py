"""A small run in a program of its own, to be killed; and what two runs are compared by."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr

from cleanclip_jax.run.clock import TIMED
from cleanclip_jax.start.store import Store


def words(workdir: Path, steps: int, every: int, **keys: Any) -> list[str]:
    """The command that trains the demo's small model at 16 pixels on one device."""
    overrides = {
        "model.image_size": 16,
        "attack.trigger.size": 4,
        "train.batch_size": 16,
        "train.steps": steps,
        "train.checkpoint_every": every,
        "train.log_every": 1,
        "optimizer.warmup_steps": 1,
        "mesh.data": 1,
        **keys,
    }
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    return ["train", "--config=configs/demo.py", f"--workdir={workdir}", *flags]


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """`python -m cleanclip_jax.cli WORDS` as a process that does not outlive the block."""
    environment = os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    with log.open("a") as file:
        program = [sys.executable, "-m", "cleanclip_jax.cli", *words]
        process = subprocess.Popen(program, env=environment, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def finished(words: list[str], log: Path) -> None:
    """Runs a command to its end."""
    with running(words, log) as process:
        assert process.wait(300) == 0, log.read_text()


def state(workdir: Path) -> dict[str, bytes]:
    """Every array of a run's newest checkpoint, with its step, by its path."""
    with Store(workdir / "checkpoints") as store:
        found = store.load(**{part: store.saved(part) for part in ("model", "progress")})
    leaves = jax.tree_util.tree_leaves_with_path(found)
    assert {"model", "progress"} == found.keys() and len(leaves) > 20
    return {keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def figures(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what is timed."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in TIMED} for row in rows]
