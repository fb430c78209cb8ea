"""The user's cache: files made once, held while in use, those used longest ago removed.

Digests of whole files are remembered there too, so that data is read for them once.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import cache_folder, read_json, write_whole, written_whole

log = logging.getLogger(__name__)

BOUND = "CLEANCLIP_CACHE_GB"
USUAL_BOUND = 200e9  # bytes
SHARE_OF_DISK = 0.5
# A file that changes again within a tick of its clock keeps its date.
SETTLED_SECONDS = 1.0
WORTH_LOGGING = 4 << 30  # bytes


class Held:
    """A file of the cache that no process removes while this lives: a shared lock on it.

    Raises FileNotFoundError where the file is not there, or no more.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle = os.open(path, os.O_RDONLY)
        # Where a file system has no locks nothing is removed either: that needs one too.
        with suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_SH)
        if os.fstat(self._handle).st_nlink == 0:
            raise FileNotFoundError(f"{path} was removed")
        with suppress(OSError):
            os.utime(path)  # its last use

    def __del__(self, close: Callable[[int], None] = os.close):  # `os` may be gone by then
        if handle := getattr(self, "_handle", None):
            close(handle)


def cached(name: str, write: Callable[[Path], None]) -> Held:
    """The file `name` in the cache, written to a path first if it is not there.

    Processes that want the same file wait for the first to write it. Then those in its folder that
    were used longest ago are removed, down to $CLEANCLIP_CACHE_GB (else 200 GB, or half of a
    smaller disk). Raises OSError where the cache cannot be written; and what `write` raises.
    """
    path = cache_folder() / name
    with suppress(FileNotFoundError):
        return Held(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    bound = _bound(path.parent)
    with _alone(path):
        if not path.exists():
            with written_whole(path) as part:
                write(part)
        held = Held(path)
    prune(path.parent, bound)
    return held


def prune(folder: Path, bound: float) -> None:
    """Removes the files used longest ago until the folder holds `bound` bytes; none in use."""
    files = []
    for path in folder.glob("[!.]*"):
        with suppress(OSError):
            files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= bound:
            return
        with suppress(OSError), path.open("rb") as stream:  # in use, or removed by another
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            total -= size
            log.info("cache: removed %s, used longest ago", path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
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


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The sha256 of each file's content, as hex digits; raises OSError for one it cannot read.

    Remembered by path, size and time of change. New ones are read in parallel.
    """
    digests = {path: _remembered(path) for path in paths}
    new = [path for path, digest in digests.items() if digest is None]
    total = sum(path.stat().st_size for path in new)
    if total >= WORTH_LOGGING:
        log.info("reading %.0f GB in %d files for their digests, once", total / 1e9, len(new))
    with ThreadPoolExecutor() as pool:
        digests.update(zip(new, pool.map(_read, new), strict=True))
    return [digests[path] or "" for path in paths]


def sha256(path: Path) -> str:
    """The sha256 of a file's content, read now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remember_digest(path: Path, digest: str) -> None:
    """Notes the digest of a file whose content is known, to spare its being read."""
    stat = path.stat()
    # Without it the file is read again next time: no reason to stop for a full disk.
    with suppress(OSError):
        write_whole(_note(path), json.dumps([stat.st_size, stat.st_mtime_ns, digest]))


def _remembered(path: Path) -> str | None:
    stat = path.stat()
    try:
        size, modified, digest = read_json(_note(path), [int, int, str])
    except UserError:
        return None
    return digest if (size, modified) == (stat.st_size, stat.st_mtime_ns) else None


def _read(path: Path) -> str:
    before = path.stat().st_mtime_ns
    digest = sha256(path)
    if before == path.stat().st_mtime_ns and time.time() - before / 1e9 > SETTLED_SECONDS:
        remember_digest(path, digest)
    return digest


def _note(path: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(path.absolute()), digest_size=16).hexdigest()
    return cache_folder() / "digests" / f"{name}.json"
