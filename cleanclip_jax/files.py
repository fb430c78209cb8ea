"""Files written whole or not at all, JSON by the line, and where the user's cache is."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanclip_jax.errors import StartAgain, UserError, reason

if TYPE_CHECKING:
    from cleanclip_jax.bucket import BucketPath


def in_bucket(path: str | os.PathLike[str]) -> "BucketPath | None":
    """The same path where it is an address; None on a disk."""
    if "://" not in (text := os.fspath(path)):
        return None
    from cleanclip_jax.bucket import BucketPath, bucket_path  # deferred: few runs lie in buckets

    return path if isinstance(path, BucketPath) else bucket_path(text)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a scratch file that takes the place of `path` when the block ends well."""

    def make(folder: Path | None, prefix: str) -> str:
        handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".part")
        os.close(handle)
        return name

    with _taking_place(path, make, 0o666) as scratch:
        yield scratch


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Gives a scratch folder that becomes `path` when the block ends well."""

    def make(folder: Path | None, prefix: str) -> str:
        return tempfile.mkdtemp(dir=folder, prefix=prefix, suffix=".part")

    with _taking_place(path, make, 0o777) as scratch:
        yield scratch


@contextmanager
def _taking_place(path: Path, make: Callable[[Path | None, str], str], mode: int) -> Iterator[Path]:
    """Scratch that `make` makes beside `path` and a rename brings there; a bucket gets a copy."""
    if (bucket := in_bucket(path)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(make(None if bucket else path.parent, f".{path.name}."))
    try:
        yield scratch
        if bucket is not None:
            bucket.put(scratch)
        else:
            # What tempfile made lets nobody else in; a workdir is shared like any other folder.
            mask = os.umask(0)
            os.umask(mask)
            scratch.chmod(mode & ~mask)
            scratch.replace(path)
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, with the folders above it."""
    data = content.encode() if isinstance(content, str) else content
    if (bucket := in_bucket(path)) is not None:
        bucket.write_bytes(data)
    else:
        with written_whole(path) as scratch:
            scratch.write_bytes(data)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file; in a bucket it lies there soon, and once the part `writing` ends."""
    if (bucket := in_bucket(path)) is not None:
        bucket.append(line)
    else:
        with path.open("a") as file:
            file.write(line)


def local_copy(path: Path) -> Path:
    """Where a library that knows disks alone reads: `path`, or a copy of it as it now is."""
    return path if (bucket := in_bucket(path)) is None else bucket.copy()


def local_folder(path: Path) -> Path:
    """Where a library that knows disks alone writes: `path`, or for one in a bucket a folder here.

    What lies in that folder is in the bucket once a checkpoint is, and when `writing` ends.
    """
    return path if (bucket := in_bucket(path)) is None else bucket.scratch()


# What ends a write that was right in itself: room, rights, a folder that went.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
UNWRITABLE |= {errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A part that writes into `folder`; a bucket has all of it when the part ends.

    Raises:
      UserError: the folder takes nothing, for a reason of the system's.
      StartAgain: so it is with a bucket, whose connections come and go.
    """
    bucket = in_bucket(folder)
    try:
        try:
            yield
        finally:
            if bucket is not None:
                bucket.flush()
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if error.filename else folder
        if error.errno not in UNWRITABLE or not named.is_relative_to(folder):
            raise
        if bucket is not None and error.errno == errno.EIO:
            raise StartAgain(
                f"{error.filename} can't be reached: {error.strerror}; the finished checkpoints "
                "are as they were: the same command goes on from there"
            ) from None
        raise UserError(
            f"{error.filename or folder} can't be written: {error.strerror}; the finished "
            "checkpoints are as they were: mend that and give the same command again"
        ) from None


def read_json(path: Path, most: int = 64 << 20) -> dict[str, Any]:
    """Reads a JSON object of at most `most` bytes; `keys.take` says whether its keys are right.

    Raises:
      UserError: it can't be read, is larger, nests too deep, or is anything else.
    """
    try:
        if not path.is_file():  # a named pipe would be waited for
            raise UserError(f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise UserError(f"{path} is larger than {most >> 20} MB, as no file of its kind is")
        content = json.loads(data)
    except OSError as error:
        raise UserError(f"{path} can't be read ({reason(error)})") from None
    except RecursionError:
        raise UserError(f"{path} nests too deep for a JSON file of its kind") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {reason(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object")
    return content


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
