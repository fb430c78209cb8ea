"""Data files by local path or remote address: gs://, s3://, http:// and whatever fsspec knows.

What reads raises OSError with the file's name for what cannot be read, also where a store has other
errors. Only regular files are read: a pipe or a device may never end.
"""

import errno
import glob
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from cleanclip_jax.cache import file_digests
from cleanclip_jax.errors import UserError, refusing

RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MOST_BYTES = 1 << 29  # of a record, and of what else is read whole
MOST_FILES = 1_000_000  # that a path may stand for
MOST_FOLDERS = 100  # within each other


def is_remote(path: str) -> bool:
    """Whether fsspec and not the operating system opens `path`."""
    return "://" in path


def local(path: str | Path) -> str:
    """A path as it is opened: ~ is the user's folder; remote addresses are left alone."""
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise UserError(f"{path!r} is no path: give a text without null characters")
    return str(path) if is_remote(str(path)) else os.path.expanduser(path)


def join(folder: str, path: str) -> str:
    """`path` as seen from `folder`; an absolute path or an address is itself."""
    if is_remote(path) or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}" if is_remote(folder) else os.path.join(folder, path)


def parent(path: str) -> str:
    """The folder that a file is in."""
    if is_remote(path):
        return path.partition("?")[0].rpartition("/")[0]
    return os.path.dirname(path)


def short_names(files: Sequence[str]) -> list[str]:
    """What tells files apart for a reader: their names, with the folders in which they differ."""
    parts = [file.partition("?")[0].split("/") for file in files]
    folders = [names[:-1] for names in parts]
    same = [len(set(names)) == 1 for names in zip(*folders, strict=False)]
    common = [*same, False].index(False)
    return ["/".join(names[common:]) for names in parts]


def check_bytes(count: int) -> None:
    """Raises OSError for more bytes than one record may have."""
    if count > MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than the {MOST_BYTES >> 20} MiB that a record may have")


def read_bytes(path: str) -> bytes:
    """A whole file."""
    if is_remote(path):
        data = _remote().read(path, 0, MOST_BYTES + 1)
        check_bytes(len(data))
        return data
    with open_binary(path) as stream:
        check_bytes(os.fstat(stream.fileno()).st_size)
        return stream.read()


def read_range(path: str, start: int, length: int) -> bytes:
    """Part of a file; raises OSError where the file ends before it."""
    check_bytes(length)
    if is_remote(path):
        data = _remote().read(path, start, start + length)
    else:
        with open_binary(path) as stream:
            data = os.pread(stream.fileno(), length, start)
    if len(data) != length:
        raise OSError(f"ends before byte {start + length}")
    return data


def open_binary(path: str) -> Any:
    """A file for reading, to be closed; remote ones can seek too."""
    if is_remote(path):
        return _remote().open_binary(path)
    # Without blocking: opening a pipe would wait for its writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return os.fdopen(handle, "rb")


def parse_json(data: bytes) -> Any:
    """JSON's value; raises ValueError for what is none, or nests too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def digests(files: Sequence[str]) -> list[str]:
    """A digest of each file's content: sha256, or for a remote file its store's checksum."""
    here = [file for file in files if not is_remote(file)]
    for file in here:
        open_binary(file).close()
    known = dict(zip(here, file_digests([Path(file) for file in here]), strict=True))
    return [known[file] if file in known else _remote().digest(file) for file in files]


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Yields (path from the folder, size) of all files below it, folder by folder, by name."""
    return _remote().files_below(folder) if is_remote(folder) else _walk(folder, "", ())


def _walk(folder: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, int]]:
    about = os.stat(folder)
    here = about.st_dev, about.st_ino
    if here in above or len(above) == MOST_FOLDERS:
        why = "a link to a folder above it" if here in above else "too deep in folders"
        raise OSError(errno.ELOOP, why, folder)
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, f"{below}{entry.name}/", (*above, here))
        else:
            # A link that leads nowhere is a picture that cannot be read.
            yield below + entry.name, entry.stat(follow_symlinks=entry.is_file()).st_size


def expand(given: str | Path | Sequence[str | Path], ending: str) -> list[str]:
    """The files that a path, a list of them, a pattern or a folder stands for, in a fixed order.

    Args:
      given: files, folders (all files below with the ending), patterns (*, ?, [..]), and any of
        them with braces ("{00000..00331}.tar", "{train,val}.parquet"), or a list of these.
        Files that are named may not be there; a pattern or folder must have one.
      ending: of the files that are meant in a folder, with its dot.
    """
    files = []
    for entry in [given] if isinstance(given, str | Path) else given:
        for name in _braces(local(entry)):
            with refusing(name, "check the data's path", OSError):
                files += _expand(name, ending)
    if not files:
        raise UserError(f"{given}: this names no {ending} file; check the data's path.")
    return files


def _expand(path: str, ending: str) -> list[str]:
    remote = is_remote(path)
    # In a web address a ? begins the query.
    pattern = re.search(r"\*" if path.startswith("http") else r"[*?[]", path)
    if pattern and (remote or not os.path.exists(path)):
        if not remote and "**" in path:  # which follows links, in a circle too
            folder = parent(path[: pattern.start()])
            _ = all(True for _ in files_below(folder or "."))
        matched = _remote().matching(path) if remote else glob.glob(path, recursive=True)
    elif not path.partition("?")[0].endswith(ending) and (
        _remote().is_folder(path) if remote else os.path.isdir(path)
    ):
        if remote:
            matched = _remote().matching(join(path, f"**/*{ending}"))
        else:
            names = (name for name, _ in files_below(path) if name.endswith(ending))
            matched = [join(path, name) for name in names if not re.search(r"(^|/)\.", name)]
        # Tools keep notes under names that begin so.
        matched = [file for file in matched if not short_names([file])[0].startswith("_")]
    else:
        return [path]
    if not matched:
        raise UserError(f"{path}: no {ending} file there; check the data's path.")
    return sorted(matched)


def _braces(path: str) -> list[str]:
    """{a,b} and {00..12} spelled out."""
    # In turn what stands outside braces and what stands within.
    parts = [[part] for part in re.split(r"\{([^{}]*)\}", path)]
    for i in range(1, len(parts), 2):
        if ends := RANGE.fullmatch(parts[i][0]):
            first, last = ends.groups()
            numbers = range(int(first), int(last) + 1)[: MOST_FILES + 1]
            parts[i] = [f"{n:0{len(first)}d}" for n in numbers]
        else:
            parts[i] = parts[i][0].split(",")
    if math.prod(map(len, parts)) > MOST_FILES:
        raise UserError(
            f"{path}: this names more than {MOST_FILES:,} files; check the data's path."
        )
    return ["".join(words) for words in product(*parts)]


def _remote() -> Any:
    # Deferred: local data needs none of it.
    from cleanclip_jax.data import remote

    return remote
