"""A disk that takes no checkpoint: noticed before the save, and told in one line."""

import ctypes
import errno
import os
import re
import shutil
import sys
from pathlib import Path

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
