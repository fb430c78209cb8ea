"""Digests of whole files, remembered, so that a dataset is read for its fingerprint once."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cleanclip_jax.files import cache_folder, write_whole

log = logging.getLogger(__name__)

# A file that changes again within a tick of its clock keeps its date.
SETTLED_SECONDS = 1.0
WORTH_SAYING = 4 << 30  # bytes


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The sha256 of each file's content, as hex digits.

    Remembered in the cache by path, size and time of change. New ones are read in parallel.

    Raises:
      OSError: a file cannot be read.
    """
    found = {path: _remembered(path) for path in paths}
    new = [path for path, digest in found.items() if digest is None]
    total = sum(path.stat().st_size for path in new)
    if total >= WORTH_SAYING:
        log.info("reading %.0f GB in %d files for their digests, once", total / 1e9, len(new))
    with ThreadPoolExecutor() as pool:
        found.update(zip(new, pool.map(_read, new), strict=True))
    return [found[path] or "" for path in paths]


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
        size, changed, digest = json.loads(_note(path).read_text())
    except (OSError, ValueError):
        return None
    return digest if (size, changed) == (stat.st_size, stat.st_mtime_ns) else None


def _read(path: Path) -> str:
    before = path.stat().st_mtime_ns
    digest = sha256(path)
    if before == path.stat().st_mtime_ns and time.time() - before / 1e9 > SETTLED_SECONDS:
        remember_digest(path, digest)
    return digest


def _note(path: Path) -> Path:
    name = hashlib.blake2b(str(path.absolute()).encode(), digest_size=16).hexdigest()
    return cache_folder() / "digests" / f"{name}.json"
