"""Files: read with a bound and checked before use, written whole or not at all."""

import errno
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanclip_jax.errors import StartAgain, UserError, reason
from cleanclip_jax.shapes import ANY, parse_json

if TYPE_CHECKING:
    from cleanclip_jax.bucket import BucketPath

log = logging.getLogger(__name__)

# Bytes of a file that is read whole (the largest of ours, a tokenizer, has three million), and of a
# line of a .jsonl file.
MOST_BYTES = LONGEST_LINE = 16 << 20


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, `~` in it resolved; refuses one that no file can have."""
    path = Path(os.path.expanduser(text))
    if path.parts[:1] and path.parts[0].startswith("~") and not path.exists():
        raise UserError(f"{text}: there is no user {path.parts[0][1:]}")
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        raise UserError(f"{os.fspath(text)!r} can't be used: {reason(error)}") from None
    return path


def in_bucket(path: str | os.PathLike[str]) -> "BucketPath | None":
    """The same path where it is an address; None on a disk."""
    if "://" not in (text := os.fspath(path)):
        return None
    from cleanclip_jax.bucket import BucketPath, bucket_path  # deferred: few runs lie in buckets

    return path if isinstance(path, BucketPath) else bucket_path(text)


def written_whole(path: Path) -> AbstractContextManager[Path]:
    """Gives a scratch file that takes the place of `path` when the block ends well."""
    return _taking_place(path, folder=False)


def folder_written_whole(path: Path) -> AbstractContextManager[Path]:
    """Gives a scratch folder that becomes `path` when the block ends well."""
    return _taking_place(path, folder=True)


@contextmanager
def _taking_place(path: Path, folder: bool) -> Iterator[Path]:
    """Scratch beside `path`, which a rename brings there; a bucket gets a copy."""
    if (bucket := in_bucket(path)) is None:
        replaceable = path.is_dir() and not any(path.iterdir()) if folder else path.is_file()
        if path.is_symlink() or (path.exists() and not replaceable):
            raise UserError(f"{path} is a link, device or folder, which is not written over")
        path.parent.mkdir(parents=True, exist_ok=True)
    # The whole name and more would be too long for some file systems.
    place = {"dir": None if bucket else path.parent, "prefix": f".{path.name[:40]}."}
    try:
        if folder:
            scratch = Path(tempfile.mkdtemp(**place, suffix=".part"))
        else:
            handle, name = tempfile.mkstemp(**place, suffix=".part")
            os.close(handle)
            scratch = Path(name)
    except OSError as error:
        error.filename = os.fspath(path)  # and not a name that nobody knows
        raise
    try:
        yield scratch
        if bucket is not None:
            bucket.put(scratch)
        else:
            # What tempfile made lets nobody else in; a workdir is shared like any other folder.
            mask = os.umask(0)
            os.umask(mask)
            scratch.chmod((0o777 if folder else 0o666) & ~mask)
            scratch.replace(path)
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, with the folders above it."""
    # Names that are no UTF-8 come as half characters: so they are escaped as JSON would.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
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


def check_plain(path: Path) -> int:
    """The bytes of a plain file, links followed; refuses a pipe, device or folder by UserError.

    A pipe's reader would wait for ever, and a device has no end. Raises OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is a folder, pipe or device: name a file")
    return status.st_size


def read_plain(path: Path, most: int = MOST_BYTES) -> bytes:
    """As `read_bytes`, but what the system says is raised as it is."""
    if in_bucket(path) is None and check_plain(path) > most:
        bound = f"{most >> 20} MiB" if most >> 20 else f"{most:,} bytes"
        raise UserError(f"{path} is larger than {bound}: refused")
    return path.read_bytes()


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a plain file of at most so many bytes; a UserError says what is wrong."""
    try:
        return read_plain(path, most)
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (OSError, ValueError) as error:
        if in_bucket(path) is not None:
            raise  # its connections come and go: `writing` knows what to do
        raise UserError(f"{path} can't be read: {reason(error)}") from None


def read_json(path: Path, shape: Any = ANY, todo: str = "", most: int = MOST_BYTES) -> Any:
    """The content of a JSON file, of a shape as `parse_json` describes it; by default an object.

    Args:
      todo: what a user does about a file that is otherwise; ends the message.
    """
    return parse_json(str(path), read_bytes(path, most), shape, todo)


def read_lines(path: Path, shape: Any = ANY) -> list[dict[str, Any]]:
    """The rows of a .jsonl file, each of that shape; [] without a file.

    A line that is no such row is passed over with a warning, but for a last one that a kill has
    torn: these files are a record, and no reason for a run to stop.
    """
    rows, bad = _lines(path, shape)
    if bad:
        reasons = "; ".join(reason for reason, _ in bad[:3])
        log.warning("%s: passed over %d lines: %s", path, len(bad), reasons)
    return rows


def rewrite_lines(path: Path, rows: list[dict[str, Any]], shape: Any = ANY) -> None:
    """Writes a .jsonl file anew; lines of it that are no rows of that shape go to PATH.bad."""
    _, bad = _lines(path, shape)
    if bad:
        aside = path.with_name(f"{path.name}.bad")
        append_line(aside, b"".join(line for _, line in bad).decode(errors="backslashreplace"))
        log.warning("%s: lines that are no rows were moved to %s", path, aside)
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def _lines(path: Path, shape: Any) -> tuple[list[dict[str, Any]], list[tuple[str, bytes]]]:
    """A .jsonl file's rows, and its other lines, each with what is wrong with it."""
    rows, bad = [], []
    if path.exists():
        if in_bucket(path) is None:
            check_plain(path)
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b""), 1):
                try:
                    rows.append(parse_json(f"line {number}", line, shape))
                except UserError as error:
                    if line.endswith(b"\n") or len(line) == LONGEST_LINE:
                        bad.append((str(error), line))
    return rows, bad


def cache_folder() -> Path:
    """$CLEANCLIP_CACHE, else cleanclip in $XDG_CACHE_HOME, else in ~/.cache."""
    if given := os.environ.get("CLEANCLIP_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "cleanclip"
