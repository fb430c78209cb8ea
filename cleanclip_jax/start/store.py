"""Checkpoints of a run, with Orbax: a folder a step, written whole or not at all, and checked.

Orbax writes a step beside its place and renames it; digests.json comes into it last. Who opens a
run gets the newest step that is whole (start/digests.py says what that is), and a line about each
newer one that is not. Only a store that goes on to save, so the run's own, moves those to
WORKDIR/damaged: one that reads may be another machine's, in the middle of a save, or on a disk
that it can't write to.

With several processes the first looks and tells the others, so that all take the same step: all
of them open a store, save, and close it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket
from cleanclip_jax.process import agreed, is_first, largest
from cleanclip_jax.start.digests import damage, write_digests
from cleanclip_jax.start.steps import Steps, explained, remove_unfinished, try_room
from cleanclip_jax.workdir import CHECKPOINTS

MODEL, PROGRESS = "model", "progress"
# What a checkpoint of an earlier program may lack: what loss terms keep between steps.
MEMORY = "memory"
# Bytes for what lies beside the arrays, and a little more.
BESIDE = 1 << 20


class Store:
    """The checkpoints in `folder`, of which the newest `keep` stay.

    A checkpoint has two parts, so that a model can be had without its optimizer: `model`
    ({'params', 'batch_stats'}) and `progress` ({'step', 'opt_state', 'memory'}). If there are
    checkpoints and all are damaged, that is a UserError.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self._at, self._keep = steps_of(folder), keep
        self._there = self._at.steps()
        newest = _of_first(lambda: self._at.newest_whole(self._there))
        if newest is not None:
            self._at.fetch(newest)
        policies = ocp.training.preservation_policies, ocp.training.save_decision_policies
        # Orbax would save whenever it is idle and keep everything by default.
        self._checkpointer = ocp.training.Checkpointer(
            str(self._at.here),
            preservation_policy=policies[0].LatestN(
                keep if self._at.here == self._at.folder else 1
            ),
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
        self._at.close()

    @property
    def listed(self) -> list[int]:
        """The steps of all checkpoints that lie there, damaged ones too."""
        return list(self._there)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint that is whole, or None."""
        return max(self.steps, default=None)

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that lie there, ascending, without those known damaged."""
        return sorted(set(self.listed) - self._damaged)

    def check(self, step: int) -> None:
        """Refuses a damaged checkpoint."""

        def look() -> int:
            if (problem := damage(self._at.fetch(step))) is not None:
                raise UserError(
                    f"{self._at.folder / str(step)} is damaged ({problem}): name another step"
                )
            return step

        _of_first(look)

    def save(self, step: int, model: dict[str, Any], progress: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it lies there.

        If the folder takes nothing, that is a UserError, and what lies there is as it was.
        """
        if self.latest == step:
            return
        parts = self._at.part({MODEL: model, PROGRESS: progress})
        try:
            self._make_room(parts)
            if not self._checkpointer.save_checkpointables(step, parts):
                raise RuntimeError(f"Orbax did not save step {step}: a fault of this program")
            if is_first():
                write_digests(self._at.here / str(step))
        except Exception as error:
            self._failed = True
            if is_first():
                with suppress(OSError):  # what it has written would keep the disk full
                    remove_unfinished(self._at.here)
            last = max(set(self._at.steps()) - self._damaged, default=None)
            if (line := explained(error, self._at.here, step, last)) is None:
                raise
            raise UserError(line) from None
        self._at.put(step, self._keep)
        self._there = sorted({*self._there, step})[-self._keep :]

    def _make_room(self, parts: Mapping[str, Any]) -> None:
        """Sees that the folder takes a checkpoint; the first time, moves away what is none."""
        if is_first():
            sizes = (getattr(x, "nbytes", 0) for x in jax.tree.leaves(parts))
            try_room(self._at.here, sum(sizes) + BESIDE)
            if not self._tidy:
                remove_unfinished(self._at.here)
                for step in self._damaged:
                    self._at.move_aside(step)
        if not self._tidy:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are moved")
            self._there = [step for step in self._there if step not in self._damaged]
            self._damaged = set()
            self._checkpointer.reload()
            self._tidy = True

    def saved(self, part: str) -> Any:
        """The newest checkpoint's part as a tree of arrays without memory, in shape and type."""
        return jax.tree.map(
            lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), self._metadata(part)
        )

    def has(self, part: str, key: str, step: int | None = None) -> bool:
        """Whether the part of a checkpoint, by default the newest, holds `key`."""
        return key in self._metadata(part, step)

    def _metadata(self, part: str, step: int | None = None) -> Any:
        return self._checkpointer.checkpointables_metadata(self._bring(step)).metadata[part]

    def _bring(self, step: int | None) -> int | None:
        """Sees that a step, by default the newest, lies here; returns it."""
        step = self.latest if step is None else step
        known = {checkpoint.step for checkpoint in self._checkpointer.checkpoints}
        if step is not None and step not in known:
            self._at.fetch(step)
            self._checkpointer.reload()
        return step

    def load(self, step: int | None = None, **abstract: Any) -> dict[str, Any]:
        """Returns a checkpoint's parts, placed as the given abstract trees say.

        A `memory` in `progress` that the checkpoint lacks, since it is of an earlier program, is
        left out.

        Args:
          step: of the checkpoint; None: the newest.
          **abstract: `model` and, or, `progress`: trees of `jax.ShapeDtypeStruct`, or of NumPy
            arrays for what is to stay on the host.
        """
        step = self._bring(step)
        progress = abstract.get(PROGRESS, {})
        if MEMORY in progress and not self.has(PROGRESS, MEMORY, step):
            abstract[PROGRESS] = {key: x for key, x in progress.items() if key != MEMORY}
        return self._checkpointer.load_checkpointables(step, abstract)


def steps_of(folder: Path) -> Steps:
    """The steps in a folder of checkpoints, on a disk or in a bucket."""
    if (bucket := in_bucket(folder)) is None:
        return Steps(folder)
    from cleanclip_jax.start.bucket_steps import BucketSteps  # deferred: few runs lie in buckets

    return BucketSteps(bucket)


def _shapes(tree: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Each leaf's last name, shape and type, in an order that the kinds of containers leave."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = ((re.findall(r"\w+", jax.tree_util.keystr(path)), x) for path, x in leaves)
    return sorted((" ".join(name), tuple(x.shape), str(x.dtype)) for name, x in named)


def newest_whole(folder: Path) -> int | None:
    """Returns the step of the newest checkpoint in `folder` that is whole; None: it has none.

    If there are some and all are damaged, that is a UserError.
    """
    with closing(steps_of(folder)) as there:
        return there.newest_whole(there.steps())


def _of_first(look: Callable[[], int | None]) -> int | None:
    """What `look()` gives on the first process, on all; its UserError too."""
    with agreed():
        step = look() if is_first() else None
    step = int(largest(-1 if step is None else step)[0])
    return None if step < 0 else step


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The shapes and types of a tree, to be placed by `sharding`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def load_model(
    workdir: Path, abstract_model: dict[str, Any], step: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a run's newest whole checkpoint, or of the one at `step`."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # not what a run has learned beside its towers
    with context, open_store(workdir) as (latest, store):
        if step is None:
            step = latest
        elif step not in store.listed:
            there = ", ".join(map(str, store.steps))
            raise UserError(f"{workdir} keeps no checkpoint of step {step}; it has {there}")
        else:
            store.check(step)
        return step, store.load(step, **{MODEL: abstract_model})[MODEL]


def load_saved(workdir: Path) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a run's newest checkpoint as they were saved, in NumPy."""
    with open_store(workdir) as (step, store):
        return step, store.load(step, **{MODEL: store.saved(MODEL)})[MODEL]


def load_opt_state(workdir: Path, abstract: Any) -> Any:
    """Returns the optimizer's state of a run's newest checkpoint, placed as `abstract` says.

    A state of another optimizer, or of other parameters, is refused.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # nothing else of `progress`
    with context, open_store(workdir) as (step, store):
        if _shapes(store.saved(PROGRESS).get("opt_state")) != _shapes(abstract):
            raise UserError(
                f"{workdir}: its optimizer's state is of another optimizer, or of other "
                "parameters: begin with a fresh one"
            )
        return store.load(step, **{PROGRESS: {"opt_state": abstract}})[PROGRESS]["opt_state"]


def save_first(workdir: Path, variables: dict[str, Any]) -> None:
    """Writes NumPy arrays of any types as the checkpoint of step 0 of a new workdir."""
    context = ocp.Context()  # as they lie: without a copy, and so without compression
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False
    with context, Store(workdir / CHECKPOINTS) as store:
        store.save(0, variables, {"step": np.zeros((), np.int32)})


@contextmanager
def open_store(workdir: Path) -> Iterator[tuple[int, Store]]:
    """Gives (step, store) of a run's newest whole checkpoint."""
    folder = workdir / CHECKPOINTS
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train it first (cleanclip train)")
    with Store(folder) as store:
        if store.latest is None:
            raise UserError(f"{folder} holds no finished checkpoint yet")
        yield store.latest, store
