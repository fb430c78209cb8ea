"""What a failed save says of the disk, in one line and no more."""

import errno
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Seconds for the threads of a save that failed.
PATIENCE = 10.0

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
        if found := _CODE.search(str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def unheard() -> Iterator[None]:
    """A save whose errors are raised, and only raised.

    Orbax logs each of them with its stack before, and its other threads go on, each to an error of
    its own; so after an error this stays as it is.
    """
    logger, hook, before = logging.getLogger("absl"), sys.unraisablehook, threading.enumerate()
    level = logger.level

    def others(unraisable: Any) -> None:
        # TensorStore's writes end after the loop that awaited them.
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = others
    try:
        yield
    except Exception:
        _wait_for(set(threading.enumerate()) - set(before))
        raise
    logger.setLevel(level)
    sys.unraisablehook = hook


def _wait_for(threads: set[threading.Thread]) -> None:
    until = time.monotonic() + PATIENCE
    for thread in threads:
        if not thread.daemon and "Executor" not in thread.name and "asyncio" not in thread.name:
            thread.join(max(until - time.monotonic(), 0))
