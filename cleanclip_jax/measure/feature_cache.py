"""Arrays of features kept in the cache: written whole, memory-mapped, checked when opened.

A file is the rows' bytes and behind them a note in JSON and a tail, the note's length and a mark:
what is cut short has no tail, what is changed has another checksum.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from cleanclip_jax.files import cache_folder, written_whole

log = logging.getLogger(__name__)

MARK = b"CLIPROWS"
TAIL = len(MARK) + 8
BLOCK_BYTES = 64 << 20


def kept_path(key: str) -> Path:
    """Where the features of that key are kept."""
    return cache_folder() / "embeddings" / f"{key[:40]}.rows"


def keep(
    path: Path, rows: Float32[np.ndarray, "n d"], note: dict[str, Any], limit: int | float
) -> None:
    """Writes rows and a note, then removes the least lately used files beyond `limit` GB.

    What can't be written is said in one line and not kept; so is what is larger than the limit.
    """
    if rows.nbytes > limit * 1e9:
        log.warning(
            "features of %.1f GB are not kept: config.evaluation.cache allows %g GB",
            rows.nbytes / 1e9,
            limit,
        )
        return
    rows = np.ascontiguousarray(rows)
    checksum = hashlib.sha256(rows.data).hexdigest()
    text = json.dumps({**note, "shape": rows.shape, "sha256": checksum}).encode()
    try:
        with written_whole(path) as scratch, scratch.open("wb") as stream:
            stream.write(rows.data)
            stream.write(text + len(text).to_bytes(8, "little") + MARK)
    except OSError as error:
        log.warning("features are not kept in %s: %s", path.parent, error.strerror or error)
        return
    _prune(path, limit)


def open_kept(path: Path) -> tuple[Float32[np.ndarray, "n d"], dict[str, Any]] | None:
    """The rows of a kept file, memory-mapped, and its note; None where there is none.

    A file that was cut short or changed is said in one line, and None as well.
    """
    try:
        rows, note = _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): its features are made again", path, error)
        return None
    with suppress(OSError):
        os.utime(path)
    return rows, note


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL))
        tail = stream.read()
        if tail[8:] != MARK:
            raise ValueError("its end is missing")
        length = int.from_bytes(tail[:8], "little")
        stream.seek(max(0, size - TAIL - length))
        note = json.loads(stream.read(length))
    shape = tuple(note["shape"])
    if 4 * int(np.prod(shape)) != size - TAIL - length:
        raise ValueError("its size is another")
    if not shape[0]:
        return np.zeros(shape, np.float32), note
    rows = np.memmap(path, np.float32, "r", shape=shape)
    found = hashlib.sha256()
    for start in range(0, rows.nbytes, BLOCK_BYTES):
        found.update(rows.reshape(-1).view(np.uint8)[start : start + BLOCK_BYTES].data)
    if found.hexdigest() != note["sha256"]:
        raise ValueError("its checksum is another")
    return rows, note


def _prune(newest: Path, limit: int | float) -> None:
    """Removes the files used longest ago until the folder holds `limit` GB at most.

    A file that another process has mapped stays readable there until it ends.
    """
    files = []
    for path in newest.parent.glob("*.rows"):
        with suppress(OSError):
            stat = path.stat()
            files.append((stat.st_mtime_ns, stat.st_size, path))
    room = limit * 1e9 - sum(size for _, size, path in files if path == newest)
    for _, size, path in sorted(files, reverse=True):
        if path == newest:
            continue
        if size <= room:
            room -= size
        else:
            path.unlink(missing_ok=True)
