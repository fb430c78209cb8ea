"""A run's checkpoints in a bucket, by way of a local folder: Orbax renames, and a bucket does not.

A step is saved here and copied there whole by the first process, with an object UNFINISHED beside
its files until all of them are there. It is copied here by each process that restores it, and
checked by its digests. So any store that fsspec knows will do, and each host needs room for two
checkpoints in its temporary folder (TMPDIR).
"""

import logging
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cleanclip_jax.bucket import BucketPath
from cleanclip_jax.files import folder_written_whole

log = logging.getLogger(__name__)

UNFINISHED = "unfinished"


class BucketSteps:
    """The steps in `folder`, and the local folder `here` with some of them, until `close()`."""

    def __init__(self, folder: BucketPath):
        self.folder = folder
        self.here = Path(tempfile.mkdtemp(prefix="cleanclip-checkpoints-"))
        # Also when a program ends by an error before it closes this.
        self.close = weakref.finalize(self, shutil.rmtree, self.here, ignore_errors=True)

    def steps(self, finished: bool = True) -> list[int]:
        """The steps that lie in the bucket, ascending; or those that a kill has left in part."""
        parts = [name.split("/") for name in self.folder.files()]
        steps = {int(part[0]) for part in parts if part[0].isdecimal()}
        cut = {int(step) for step, *rest in parts if rest == [UNFINISHED] and step.isdecimal()}
        return sorted(steps - cut if finished else cut)

    def fetch(self, step: int) -> Path:
        """Brings a step here, unless it is; returns its local folder, absent if it went."""
        local = self.here / str(step)
        if not local.is_dir():
            with suppress(FileNotFoundError), folder_written_whole(local) as scratch:
                (self.folder / str(step)).get(scratch)
        return local

    def put(self, step: int, keep: int) -> None:
        """Copies a finished step into the bucket, where the newest `keep` stay."""
        for cut in self.steps(finished=False):
            self._remove(cut)
        place = self.folder / str(step)
        self._remove(step)
        (place / UNFINISHED).write_bytes(b"")
        place.put(self.here / str(step))
        (place / UNFINISHED).unlink()
        for old in self.steps()[:-keep]:
            self._remove(old)

    def move_aside(self, step: int) -> None:
        """Moves a damaged step, which lies here, to WORKDIR/damaged."""
        place = self.folder.parent / "damaged"
        names = [str(step), *(f"{step}.{i}" for i in range(1, 1000))]
        place /= next(name for name in names if not (place / name).is_dir())
        place.put(self.fetch(step))
        self._remove(step)
        shutil.rmtree(self.here / str(step))
        log.warning("the damaged checkpoint of step %s now lies in %s", step, place)

    def _remove(self, step: int) -> None:
        place = self.folder / str(step)
        if place.is_dir():
            (place / UNFINISHED).write_bytes(b"")
            place.remove(but=UNFINISHED)
            (place / UNFINISHED).unlink()


def whole(tree: Any) -> Any:
    """A tree that the first process can write alone: what lies on other hosts is gathered."""
    if jax.process_count() == 1:
        return tree

    def gathered(x: Any) -> Any:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(lambda x: gathered(x) if isinstance(x, jax.Array) else x, tree)
