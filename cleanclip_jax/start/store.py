"""Checkpoints of a run, with Orbax: a folder a step, written whole or not at all, and checked.

Orbax writes a step beside its place and renames it; digests.json comes into it last. Who opens a
run gets the newest step that is whole (checkpoints/digests.py says what that is), and a line about
each newer one that is not. Only a store that goes on to save, so the run's own, moves those to
WORKDIR/damaged: one that reads may be another machine's, in the middle of a save, or on a disk
that it can't write to.

With several processes the first looks and tells the others, so that all take the same step: all
of them open a store, save, and close it.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket
from cleanclip_jax.start.bucket_steps import BucketSteps, whole
from cleanclip_jax.start.digests import damage, write_digests
from cleanclip_jax.start.save_errors import explained, unheard

log = logging.getLogger(__name__)

MODEL, PROGRESS = "model", "progress"
# What Orbax calls a step that is not finished: 400.orbax-checkpoint-tmp.
UNFINISHED = re.compile(r".*\.orbax-checkpoint-tmp.*")


class Store:
    """The checkpoints in `folder`, of which the newest `keep` stay.

    A checkpoint has two parts, so that a model can be had without its optimizer: `model`
    ({'params', 'batch_stats'}) and `progress` ({'step', 'opt_state'}).

    Raises:
      UserError: there are checkpoints, and all are damaged.
    """

    def __init__(self, folder: Path, keep: int = 2):
        # A bucket's steps lie in a local folder for Orbax; `_keep` of them stay in the bucket.
        self._place, self._keep = folder.absolute(), keep
        self._bucket = None if (bucket := in_bucket(folder)) is None else BucketSteps(bucket)
        self._folder = self._place if self._bucket is None else self._bucket.here
        self._there = [] if self._bucket is None else self._bucket.steps()
        newest = _agreed(lambda: _newest(self._place, self._all(), self._local))
        if newest is not None:
            self._local(newest)
        policies = ocp.training.preservation_policies, ocp.training.save_decision_policies
        # Orbax would save whenever it is idle and keep everything unless told otherwise.
        self._checkpointer = ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=policies[0].LatestN(keep if self._bucket is None else 1),
            save_decision_policy=policies[1].FixedIntervalPolicy(1),
        )
        # What is newer than the newest that is whole is damaged.
        self._damaged = {step for step in self.listed if newest is None or step > newest}
        self._tidy = self._failed = False

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        # It raises once more what a save has raised.
        with suppress(*[Exception] * self._failed):
            self._checkpointer.close()
        if self._bucket is not None:
            self._bucket.close()

    def _all(self) -> list[int]:
        return _steps(self._folder) if self._bucket is None else self._there

    def _local(self, step: int) -> Path:
        """The folder of a step on this host's disk."""
        return self._folder / str(step) if self._bucket is None else self._bucket.fetch(step)

    @property
    def listed(self) -> list[int]:
        """The steps of all checkpoints that lie there, damaged ones too."""
        if self._bucket is not None:
            return self._there
        return [found.step for found in self._checkpointer.checkpoints]

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint that is whole, or None."""
        return max(self.steps, default=None)

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that lie there, ascending, without those found damaged."""
        return sorted(set(self.listed) - self._damaged)

    def check(self, step: int) -> None:
        """Refuses a damaged checkpoint.

        Raises:
          UserError: it is.
        """

        def look() -> int:
            if (problem := damage(self._local(step))) is not None:
                raise UserError(
                    f"{self._place / str(step)} is damaged ({problem}): name another step"
                )
            return step

        _agreed(look)

    def save(self, step: int, model: dict[str, Any], progress: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it lies there.

        Raises:
          UserError: the folder takes nothing; the checkpoints in it are as they were.
        """
        if self.latest == step:
            return
        if self._bucket is not None:
            model, progress = whole((model, progress))
        try:
            with unheard():
                self._make_room()
                parts = {MODEL: model, PROGRESS: progress}
                saved = self._checkpointer.save_checkpointables(step, parts)
                assert saved, f"Orbax did not save step {step}"
                if jax.process_index() == 0:
                    write_digests(self._folder / str(step))
        except Exception as error:
            self._failed = True
            if jax.process_index() == 0:
                with suppress(OSError):  # what it has written would keep the disk full
                    _remove_unfinished(self._folder)
            last = max(set(_steps(self._folder)) - self._damaged, default=None)
            if (line := explained(error, self._folder, step, last)) is None:
                raise
            raise UserError(line) from None
        if self._bucket is not None:
            if jax.process_index() == 0:
                # Nothing of the run's rows is older than its checkpoint.
                self._bucket.folder.parent.flush()
                self._bucket.put(step, self._keep)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("the checkpoint is in the bucket")
            self._there = sorted({*self._there, step})[-self._keep :]

    def _make_room(self) -> None:
        """Sees that the folder takes a checkpoint; the first time, moves away what is none."""
        if jax.process_index() == 0:
            # Orbax would make the folder anew and go on without the run's other checkpoints; and
            # its threads wait twenty minutes for folders that one of them can't make.
            trial = self._folder / "trial.orbax-checkpoint-tmp"
            shutil.rmtree(trial, ignore_errors=True)
            trial.mkdir()
            for part in (MODEL, PROGRESS):
                (trial / part).mkdir()
            shutil.rmtree(trial)
            if not self._tidy:
                _remove_unfinished(self._folder)
                for step in self._damaged:
                    if self._bucket is None:
                        _move_aside(self._folder / str(step))
                    else:
                        self._bucket.move_aside(step)
        if not self._tidy:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are moved")
            self._there = [step for step in self._there if step not in self._damaged]
            self._damaged = set()
            self._checkpointer.reload()
            self._tidy = True

    def saved(self, part: str) -> Any:
        """The newest checkpoint's part as a tree of arrays without memory, in shape and type."""
        assert self.latest is not None
        self._bring(self.latest)
        tree = self._checkpointer.checkpointables_metadata(self.latest).metadata[part]
        return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), tree)

    def load(self, step: int | None = None, **abstract: Any) -> dict[str, Any]:
        """Returns a checkpoint's parts, placed as the given abstract trees say.

        Args:
          step: of the checkpoint; None: the newest.
          **abstract: `model` and, or, `progress`: trees of `jax.ShapeDtypeStruct`, or of NumPy
            arrays for what is to stay on the host.
        """
        step = self.latest if step is None else step
        self._bring(step)
        return self._checkpointer.load_checkpointables(step, abstract)

    def _bring(self, step: int | None) -> None:
        if self._bucket is not None and step is not None:
            self._bucket.fetch(step)
            self._checkpointer.reload()


def newest_whole(folder: Path) -> int | None:
    """Returns the step of the newest checkpoint in `folder` that is whole; None: it has none.

    Raises:
      UserError: there are some, and all are damaged.
    """
    if (bucket := in_bucket(folder)) is None:
        return _newest(folder, _steps(folder), lambda step: folder / str(step))
    with closing(BucketSteps(bucket)) as steps:
        return _newest(folder, steps.steps(), steps.fetch)


def _newest(folder: Path, steps: list[int], local: Callable[[int], Path]) -> int | None:
    bad: dict[int, str] = {}
    newest = None
    for step in reversed(steps):
        problem = damage(local(step))
        if problem is None:
            newest = step
            break
        # A run that is training may have deleted it in the meantime.
        if local(step).is_dir():
            bad[step] = problem
    if bad and newest is None:
        said = "; ".join(f"{step}: {problem}" for step, problem in bad.items())
        raise UserError(
            f"{folder}: no checkpoint is whole ({said}): put one back from a copy, or move the "
            "folder away to begin anew"
        )
    for step, problem in bad.items():
        log.warning(
            "%s is damaged (%s): step %d is used instead", folder / str(step), problem, newest
        )
    return newest


def _steps(folder: Path) -> list[int]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def _agreed(look: Any) -> int | None:
    """What `look()` gives on the first process, on all; its UserError too, in words."""
    if jax.process_count() == 1:
        return look()
    found, problem = None, None
    if jax.process_index() == 0:
        try:
            found = look()
        except UserError as error:
            problem = error
    # -1: no checkpoint, -2: an error.
    code = -2 if problem else -1 if found is None else found
    code = int(multihost_utils.broadcast_one_to_all(np.asarray(code, np.int32)))
    if code == -2:
        raise problem or UserError("a damaged checkpoint: the first process says which")
    return None if code == -1 else code


def _move_aside(step: Path) -> None:
    """Moves a step's folder to WORKDIR/damaged, where nothing is written over."""
    home = step.parent.parent / "damaged"
    home.mkdir(exist_ok=True)
    taken = {path.name for path in home.iterdir()}
    names = [step.name, *(f"{step.name}.{i}" for i in range(1, len(taken) + 1))]
    place = home / next(name for name in names if name not in taken)
    os.rename(step, place)
    log.warning("the damaged checkpoint of step %s now lies in %s", step.name, place)


def _remove_unfinished(folder: Path) -> None:
    """Removes what a program that was killed while it saved has left."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The shapes and types of a tree, to be placed by `sharding`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def load_model(
    workdir: Path, abstract_model: dict[str, Any], step: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a run's newest whole checkpoint, or of the one at `step`.

    Raises:
      UserError: the run has no checkpoint yet, or none at `step`, or it is damaged.
    """
    with open_store(workdir) as (latest, store):
        if step is None:
            step = latest
        elif step not in store.listed:
            kept = ", ".join(map(str, store.steps))
            raise UserError(f"{workdir} keeps no checkpoint of step {step}; it has {kept}")
        else:
            store.check(step)
        return step, store.load(step, **{MODEL: abstract_model})[MODEL]


@contextmanager
def open_store(workdir: Path) -> Iterator[tuple[int, Store]]:
    """Gives (step, store) of a run's newest whole checkpoint.

    Raises:
      UserError: the run has no checkpoint yet, or none that is whole.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train it first (cleanclip train)")
    with Store(folder) as store:
        if store.latest is None:
            raise UserError(f"{folder} holds no finished checkpoint yet")
        yield store.latest, store
