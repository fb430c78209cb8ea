"""Where the steps of a run's checkpoints lie: each a folder, on this disk or brought to it.

And why a disk takes none: noticed before a save, and said in one line.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.digests import damage

log = logging.getLogger(__name__)

# How TensorStore, which writes the arrays, names the system's error in its message.
_CODE = re.compile(r"os_error_code='(\d+)'")
_MEND = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.ENOENT: "bring it back",
    errno.ENOTDIR: "bring it back",
}
# What Orbax calls a step that is not finished: 400.orbax-checkpoint-tmp.
UNFINISHED = ".orbax-checkpoint-tmp"
# What a file system answers that can't take room beforehand.
_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Steps:
    """The steps in `folder`, here on a disk; `here` is where Orbax reads and writes them."""

    def __init__(self, folder: Path):
        self.folder = self.here = folder.absolute()

    def steps(self) -> list[int]:
        """The steps that lie there, ascending, damaged ones too."""
        names = [path.name for path in self.here.iterdir()] if self.here.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def fetch(self, step: int) -> Path:
        """Brings a step here; returns its folder here, which is absent if the step has gone."""
        return self.here / str(step)

    def part(self, tree: Any) -> Any:
        """What this process hands to Orbax of a tree that all processes hold."""
        return tree

    def newest_whole(self, steps: list[int]) -> int | None:
        """The newest of these steps that is whole; None: there is none.

        If there are some and all are damaged, that is a UserError.
        """
        bad: dict[int, str] = {}
        newest = None
        for step in reversed(steps):
            problem = damage(self.fetch(step))
            if problem is None:
                newest = step
                break
            # A run that is training may have deleted it in the meantime.
            if self.fetch(step).is_dir():
                bad[step] = problem
        if bad and newest is None:
            reasons = "; ".join(f"{step}: {problem}" for step, problem in bad.items())
            raise UserError(
                f"{self.folder}: no checkpoint is whole ({reasons}): put one back from a copy, or "
                "move the folder away to begin anew"
            )
        for step, problem in bad.items():
            log.warning(
                "%s is damaged (%s): step %d is used instead",
                self.folder / str(step),
                problem,
                newest,
            )
        return newest

    def put(self, step: int, keep: int) -> None:
        """Takes a step that is finished here, and keeps the newest so many. All processes call."""

    def move_aside(self, step: int) -> None:
        """Moves a damaged step to WORKDIR/damaged, where nothing is written over."""
        place = self._aside(step)
        place.parent.mkdir(exist_ok=True)
        (self.here / str(step)).rename(place)

    def close(self) -> None:
        """Removes what was brought here."""

    def _aside(self, step: int) -> Path:
        home = self.folder.parent / "damaged"
        taken = {path.name for path in home.iterdir()} if home.is_dir() else set()
        names = [str(step), *(f"{step}.{i}" for i in range(1, len(taken) + 1))]
        place = home / next(name for name in names if name not in taken)
        log.warning("the damaged checkpoint of step %s now lies in %s", step, place)
        return place


def try_room(folder: Path, size: int) -> None:
    """Takes `size` bytes in `folder` and gives them back: raises the OSError that a save would.

    Orbax itself would make a missing folder anew, without the run's other checkpoints; and its
    threads log each error, and wait twenty minutes for folders that one of them can't make.
    """
    trial = folder / f"trial{UNFINISHED}"
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir()
    try:
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        with (trial / "file").open("wb") as file:
            if sys.platform == "linux":  # a quota is noticed as well
                libc, long = ctypes.CDLL(None, use_errno=True), ctypes.c_longlong
                failed = libc.fallocate(file.fileno(), 0, long(0), long(size))
                if failed and (code := ctypes.get_errno()) not in _UNABLE:
                    raise OSError(code, os.strerror(code), file.name)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a program that was killed while it saved, or couldn't, has left."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if UNFINISHED in path.name:
            shutil.rmtree(path, ignore_errors=True)


def explained(error: BaseException, folder: Path, step: int, last: int | None) -> str | None:
    """Returns the line for a save into `folder` that failed; None: the disk is not why.

    Args:
      step: that was to be saved.
      last: of the newest checkpoint that is whole, if there is one.
    """
    code = system_code(error)
    if code is None:
        return None
    lost = f"the checkpoint of step {step} was not kept, " if last != step else ""
    good = "and none lies there" if last is None else f"that of step {last} is whole"
    return (
        f"{folder} can't be written: {os.strerror(code)}; {lost}{good}: "
        f"{_MEND.get(code, 'mend that')} and give the same command again"
    )


def system_code(error: BaseException | None) -> int | None:
    """Returns the system's error number behind an exception of Orbax's, if there is one."""
    while error is not None:
        # A timeout is an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := _CODE.search(str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
