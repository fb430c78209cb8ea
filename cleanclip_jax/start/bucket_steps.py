"""A run's checkpoints in a bucket, by way of a local folder: Orbax renames, and a bucket does not.

A step is saved here and copied there whole by the first process, with an object UNFINISHED beside
its files until all of them are there. It is copied here by each process that restores it, and
checked by its digests. So any store that fsspec knows will do, and each host needs room for two
checkpoints in its temporary folder (TMPDIR).
"""

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
from cleanclip_jax.start.steps import Steps

UNFINISHED = "unfinished"


class BucketSteps(Steps):
    """The steps in a bucket's `folder`; some of them lie in a folder `here` until `close()`."""

    def __init__(self, folder: BucketPath):
        self.folder = self._bucket = folder
        self.here = Path(tempfile.mkdtemp(prefix="cleanclip-checkpoints-"))
        # Also when a program ends by an error before it closes this.
        self._removed = weakref.finalize(self, shutil.rmtree, self.here, ignore_errors=True)

    def close(self) -> None:
        self._removed()

    def steps(self, finished: bool = True) -> list[int]:
        """The steps that lie in the bucket, ascending; or those that a kill has left in part."""
        parts = [name.split("/") for name in self._bucket.files()]
        steps = {int(part[0]) for part in parts if part[0].isdecimal()}
        cut = {int(step) for step, *rest in parts if rest == [UNFINISHED] and step.isdecimal()}
        return sorted(steps - cut if finished else cut)

    def fetch(self, step: int) -> Path:
        local = self.here / str(step)
        if not local.is_dir():
            with suppress(FileNotFoundError), folder_written_whole(local) as scratch:
                self._place(step).get(scratch)
        return local

    def part(self, tree: Any) -> Any:
        """All of it, for the first process to write: what lies on other hosts is gathered."""
        if jax.process_count() == 1:
            return tree

        def gathered(x: Any) -> Any:
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))

        return jax.tree.map(lambda x: gathered(x) if isinstance(x, jax.Array) else x, tree)

    def put(self, step: int, keep: int) -> None:
        if jax.process_index() == 0:
            # Nothing of the run's rows is older than its checkpoint.
            self._bucket.parent.flush()
            for cut in {*self.steps(finished=False), step}:
                self._remove(cut)
            (self._place(step) / UNFINISHED).write_bytes(b"")
            self._place(step).put(self.here / str(step))
            (self._place(step) / UNFINISHED).unlink()
            for old in self.steps()[:-keep]:
                self._remove(old)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("the checkpoint is in the bucket")

    def move_aside(self, step: int) -> None:
        place = self._aside(step)
        BucketPath(place).put(self.fetch(step))
        self._remove(step)
        shutil.rmtree(self.here / str(step))

    def _place(self, step: int) -> BucketPath:
        return self._bucket / str(step)

    def _remove(self, step: int) -> None:
        """Removes a step, which is unfinished from the first of its files to the last."""
        if (place := self._place(step)).is_dir():
            (place / UNFINISHED).write_bytes(b"")
            place.remove(but=UNFINISHED)
            (place / UNFINISHED).unlink()
