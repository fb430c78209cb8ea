"""Whether a step's folder is as it was written: its files' sizes and digests, in one more file.

The file system keeps no such sums, and neither does Orbax: a flipped bit of a weight is read as
another weight.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import tensorstore

from cleanclip_jax.files import written_whole

FILE = "digests.json"
THREADS = 4
# Bytes of a file that get a digest of their own, so that one large file keeps all threads busy.
PIECE = 64 << 20


def write_digests(folder: Path) -> None:
    """Writes digests.json: {"files": {name: {"bytes": n, "sha256": [of each 64 MiB]}}}.

    To be called when the folder is finished. All files of it are on the disk before this one is.
    """
    names = _files(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_to_disk, [folder / name for name in names]))
        found = _digests(folder, names, pool)
    files = {name: {"bytes": size, "sha256": sums} for name, (size, sums) in found.items()}
    with written_whole(folder / FILE) as scratch, scratch.open("w") as file:
        json.dump({"files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage(folder: Path) -> str | None:
    """Returns what is wrong with a step's folder, in words; None: it is whole.

    A folder without digests.json was written before there were any, or by a program that was
    killed between Orbax's last rename and this file: it is whole if everything in it can be read.
    That finds what is missing or cut off, not a flipped bit.
    """
    facts = []
    for name in [*_files(folder), FILE]:
        if (path := folder / name).is_file():
            facts.append((name, path.stat().st_size, path.stat().st_mtime_ns))
    return _damage(folder.absolute(), tuple(facts))


@lru_cache(maxsize=256)
def _damage(folder: Path, facts: tuple[tuple[str, int, int], ...]) -> str | None:
    """As `damage`, remembered as long as no file is another: a job opens a run several times."""
    try:
        return _other(folder) if (folder / FILE).is_file() else _unreadable(folder)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"


def _other(folder: Path) -> str | None:
    try:
        files = json.loads((folder / FILE).read_text())["files"]
        expected = {name: (file["bytes"], file["sha256"]) for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FILE} is not as it was written"
    for name, (size, _) in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (now := (folder / name).stat().st_size) != size:
            return f"{name} has {now} bytes, not {size}"
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in _digests(folder, list(expected), pool).items():
            if found != expected[name]:
                return f"{name} has another content than was written"
    return None


def _unreadable(folder: Path) -> str | None:
    for part in ("model", "progress"):
        if not (folder / part / "_METADATA").is_file():
            return f"{part}/_METADATA is missing"
        try:
            json.loads((folder / part / "_METADATA").read_text())
            # Each array's bytes as they lie there: by way of Orbax all processes would have to.
            base = f"file://{(folder / part).absolute()}/"
            arrays = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
            keys = arrays.list().result()
            for key in keys:
                arrays.read(key).result()
        except ValueError as error:
            return f"{part} can't be read ({' '.join(str(error).split())[:200]})"
        if not keys:
            return f"{part} is empty"
    return None


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in found if FILE not in name.name)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digests(
    folder: Path, names: list[str], pool: ThreadPoolExecutor
) -> dict[str, tuple[int, list[str]]]:
    sizes = {name: (folder / name).stat().st_size for name in names}
    pieces = [(name, start) for name in names for start in range(0, sizes[name], PIECE)]
    sums: dict[str, list[str]] = {name: [] for name in names}
    found = pool.map(lambda piece: _digest(folder / piece[0], piece[1]), pieces)
    for (name, _), digest in zip(pieces, found, strict=True):
        sums[name].append(digest)
    return {name: (sizes[name], sums[name]) for name in names}


def _digest(path: Path, start: int) -> str:
    digest, left, buffer = hashlib.sha256(), PIECE, memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (size := file.readinto(buffer[: min(left, len(buffer))])):
            digest.update(buffer[:size])
            left -= size
    return digest.hexdigest()
