"""Files written whole or not at all, JSON by the line, and where the user's cache is."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a scratch file beside `path` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        _share(scratch, 0o666)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Gives a scratch folder beside `path` that becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield scratch
        _share(scratch, 0o777)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _share(scratch: Path, mode: int) -> None:
    """What tempfile made lets nobody else in; a workdir is shared like any other folder."""
    mask = os.umask(0)
    os.umask(mask)
    scratch.chmod(mode & ~mask)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, with the folders above it."""
    data = content.encode() if isinstance(content, str) else content
    with written_whole(path) as scratch:
        scratch.write_bytes(data)


# What ends a write that was right in itself: room, rights, a folder that went.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
UNWRITABLE |= {errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A part that writes into `folder`.

    Raises:
      UserError: the folder takes nothing, for a reason of the system's.
    """
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if error.filename else folder
        if error.errno not in UNWRITABLE or not named.is_relative_to(folder):
            raise
        raise UserError(
            f"{named} can't be written: {error.strerror}; the finished checkpoints are as they "
            "were: mend that and give the same command again"
        ) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a .jsonl file, but for a last one torn by a kill; none without a file.

    Raises:
      UserError: another line is not readable.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path} line {number} is not JSON: mend or move it") from None
    return rows


def cache_folder() -> Path:
    """$CLEANCLIP_CACHE, else cleanclip in $XDG_CACHE_HOME, else in ~/.cache."""
    if given := os.environ.get("CLEANCLIP_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "cleanclip"
