"""Ways of a training step that take turns, each in a process of its own, and what they train on.

So what else the machine does hits all ways alike. On a GPU all are on it at once: JAX takes
memory as it needs it in place of three quarters at the start
(XLA_PYTHON_CLIENT_PREALLOCATE=false), as PyTorch does, and only one of them computes at a time.
"""

import contextlib
import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from cleanclip_jax.models.variants import Variant

HELD = 2  # batches on the device
CHECKED = 8  # pairs that the ways are held against each other with
FULL = ("RESOURCE_EXHAUSTED", "out of memory", "OutOfMemory")


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
      numbers: the variant's, with the vocabulary and the context put in.
      tokens: the longest caption, which our side and PyTorch's best cut captions to.
      weights: the file that our side writes its weights to, for the others.
      compile: of torch: auto, none or a mode.
      options: other fields of our model.
    """

    variant: str
    numbers: Variant
    batch: int
    precision: str
    views: int
    tokens: int
    weights: str
    compile: str = "auto"
    warmup_steps: int = 10_000
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """A way of training."""

    def check(self, images: np.ndarray, tokens: np.ndarray) -> tuple[float, np.ndarray]: ...
    def first(self) -> dict[str, Any]: ...
    def step(self) -> Any: ...
    def wait(self, loss: Any) -> float: ...
    def about(self) -> dict[str, Any]: ...
    def peak_bytes(self) -> int | None: ...


def batches(job: Job, rows: int, count: int, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures uint8[rows, views, s, s, 3] and tokens int32[rows, views, length], `count` times.

    The same for every length. Pictures are patches of colour under noise: of noise alone all
    embeddings would be nearly one, and a wrong loss not to be seen.
    """
    rng, v = np.random.default_rng(job.seed), job.numbers
    found, side = [], v.image_size
    for _ in range(count):
        patches = rng.integers(0, 200, (rows, job.views, 4, 4, 3), dtype=np.uint8)
        step = -(-side // 4)
        images = patches.repeat(step, 2).repeat(step, 3)[:, :, :side, :side]
        noise = rng.integers(0, 56, (1, job.views, side, side, 3), dtype=np.uint8)
        words = rng.integers(1, v.vocab_size - 2, (rows, job.views, job.tokens))
        ends = rng.integers(job.tokens // 2, job.tokens, (rows, job.views, 1))
        ends[0] = job.tokens - 1  # one is as long as is said
        words = np.where(np.arange(job.tokens) < ends, words, 0)
        words[..., 0] = v.vocab_size - 2
        np.put_along_axis(words, ends, v.vocab_size - 1, -1)
        tokens = np.pad(words, ((0, 0), (0, 0), (0, length - job.tokens))).astype(np.int32)
        found.append((images + noise, tokens))
    return found


class Player:
    """A way in its process. What goes wrong there is `failed`, one line, and ends it alone."""

    def __init__(self, make: Callable[..., Runner], *arguments: Any):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_play, args=(there, make, arguments))
        self._process.start()
        there.close()
        self.failed: str | None = None

    def ask(self, name: str, *arguments: Any) -> Any:
        """Calls a method of the runner, or `turn`; None where the way has failed."""
        if self.failed is not None:
            return None
        self._pipe.send((name, arguments))
        try:
            good, answer = self._pipe.recv()
        except EOFError:
            good, answer = False, "its process ended"
        if not good:
            self.failed = answer
            self.end()
        return answer if good else None

    def end(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(OSError):
                self._pipe.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.terminate()


def _play(pipe: Connection, make: Callable[..., Runner], arguments: tuple) -> None:
    try:
        runner = make(*arguments)
        while (asked := pipe.recv()) is not None:
            name, given = asked
            answer = turn(runner, *given) if name == "turn" else getattr(runner, name)(*given)
            pipe.send((True, answer))
    except EOFError:
        return  # whoever asked is gone
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if any(sign in text for sign in FULL):
            text = "out of memory"
        else:
            traceback.print_exc()
        pipe.send((False, text.splitlines()[0]))


def turn(runner: Runner, seconds: float) -> dict[str, Any]:
    """So many seconds of steps: seconds a step, and the peak of memory since the first step."""
    runner.wait(runner.step())
    began = time.perf_counter()
    runner.wait(runner.step())
    steps = max(int(seconds / (time.perf_counter() - began)), 2)
    began = time.perf_counter()
    loss = None
    for _ in range(steps):
        loss = runner.step()
    last = runner.wait(loss)
    each = (time.perf_counter() - began) / steps
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": each,
        "steps": steps,
        "loss": last,
        "peak_bytes": runner.peak_bytes(),
        "process_bytes": process,
    }
