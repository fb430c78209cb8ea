"""Whether a step's folder is as it was written: its files' sizes and digests, in one more file.

The file system keeps no such sums, and neither does Orbax: a flipped bit of a weight is read as
another weight.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorstore

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json, written_whole

FILE = "digests.json"
THREADS = 4
PIECE = 64 << 20  # bytes that get a digest, so that one large file keeps all threads busy
READ = 1 << 20  # bytes at once
_SHAPE = {"files": {str: {"bytes": int, "sha256": [str]}}}


def write_digests(folder: Path) -> None:
    """Writes digests.json: {"files": {name: {"bytes": n, "sha256": [of each 64 MiB]}}}.

    To be called when the folder is finished. All files of it are on the disk before this one is.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and FILE not in path.name]
    names = sorted(str(path.relative_to(folder)) for path in files)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_to_disk, files))
    with written_whole(folder / FILE) as scratch:
        scratch.write_text(json.dumps({"files": _digests(folder, names)}, indent=1))
        _to_disk(scratch)


def damage(folder: Path) -> str | None:
    """Returns what is wrong with a step's folder, in words; None: it is whole.

    A folder without digests.json was written before there were any, or by a program that was
    killed between Orbax's last rename and this file: it is whole if everything in it can be read.
    That finds what is missing or cut off, not a flipped bit.
    """
    try:
        return _difference(folder) if (folder / FILE).is_file() else _unreadable(folder)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"


def _difference(folder: Path) -> str | None:
    try:
        expected = read_json(folder / FILE, _SHAPE)["files"]
    except UserError:
        return f"{FILE} is not as it was written"
    sizes = {name: file["bytes"] for name, file in expected.items()}
    for name, size in sizes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (now := (folder / name).stat().st_size) != size:
            return f"{name} has {now} bytes, not {size}"
    for name, digests in _digests(folder, list(sizes)).items():
        if digests != expected[name]:
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


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digests(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    sizes = {name: (folder / name).stat().st_size for name in names}
    pieces = [(name, start) for name in names for start in range(0, sizes[name], PIECE)]
    files = {name: {"bytes": sizes[name], "sha256": []} for name in names}
    with ThreadPoolExecutor(THREADS) as pool:
        sums = pool.map(lambda piece: _sha256(folder / piece[0], piece[1]), pieces)
        for (name, _), digest in zip(pieces, sums, strict=True):
            files[name]["sha256"].append(digest)
    return files


def _sha256(path: Path, start: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        for size in [READ] * (PIECE // READ) + [PIECE % READ]:
            digest.update(file.read(size))
    return digest.hexdigest()
