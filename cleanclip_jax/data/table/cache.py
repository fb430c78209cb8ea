"""Copies in the user's cache: made once, held while in use, the oldest pruned past a bound."""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import cache_folder, written_whole

log = logging.getLogger(__name__)

BOUND = "CLEANCLIP_CACHE_GB"
USUAL_BOUND = 200e9  # bytes
SHARE_OF_DISK = 0.5


class Held:
    """A copy that no process prunes while this lives: a shared lock on the file.

    Raises:
      FileNotFoundError: the copy is not there, or no more.
    """

    def __init__(self, copy: Path):
        self._handle = os.open(copy, os.O_RDONLY)
        # Where a file system has no locks nothing is pruned either: that needs one too.
        with suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_SH)
        if os.fstat(self._handle).st_nlink == 0:
            raise FileNotFoundError(f"{copy} was pruned")
        with suppress(OSError):
            os.utime(copy)  # its last use

    def __del__(self, close: Callable[[int], None] = os.close):  # `os` may be gone by then
        if handle := getattr(self, "_handle", None):
            close(handle)


def kept_copy(name: str, write: Callable[[Path], None]) -> tuple[Path, Held]:
    """The copy `name` in the cache's tables, written to a path first if it is not there.

    Processes that want the same copy wait for the first to write it. Then the copies used longest
    ago are removed until $CLEANCLIP_CACHE_GB is kept (else 200 GB, or half of a smaller disk).

    Raises:
      OSError: the cache cannot be written to, or is full; and what `write` raises.
    """
    copy = cache_folder() / "tables" / name
    try:
        return copy, Held(copy)
    except FileNotFoundError:
        copy.parent.mkdir(parents=True, exist_ok=True)
    bound = _bound(copy.parent)
    with _alone(copy):
        if not copy.exists():
            with written_whole(copy) as part:
                write(part)
        held = Held(copy)
    _prune(copy.parent, bound)
    return copy, held


@contextmanager
def _alone(copy: Path) -> Iterator[None]:
    lock = copy.with_suffix(".lock")
    with lock.open("w") as stream:
        with suppress(OSError):  # without locks it is written twice, whole each time
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _bound(folder: Path) -> float:
    given = os.environ.get(BOUND)
    if given is None:
        return min(USUAL_BOUND, SHARE_OF_DISK * shutil.disk_usage(folder).total)
    try:
        return float(given) * 1e9
    except ValueError:
        raise UserError(f"{BOUND}={given!r}: give a number of gigabytes.") from None


def _prune(folder: Path, bound: float) -> None:
    copies = []
    for path in folder.glob("*.arrow"):
        with suppress(OSError):
            copies.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if total <= bound:
            return
        if _remove_unused(path):
            total -= size
            log.info("cache: removed %s, used longest ago; %s=… keeps more", path, BOUND)


def _remove_unused(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # in use, or another process has removed it
        return False
    return True
