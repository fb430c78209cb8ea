"""Data files by local path or remote address: gs://, s3://, http:// and whatever fsspec knows.

Everything here raises OSError with the file's name for what cannot be read, also where a store has
other errors.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cleanclip_jax.cache import file_digests
from cleanclip_jax.errors import UserError, reason

RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_remote(path: str) -> bool:
    """Whether fsspec and not the operating system opens `path`."""
    return "://" in path


def local(path: str | Path) -> str:
    """A path as it is opened: ~ is the user's folder; remote addresses are left alone."""
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


def read_bytes(path: str) -> bytes:
    """A whole file."""
    if is_remote(path):
        return _remote().read(path)
    with open(path, "rb") as stream:
        return stream.read()


def read_range(path: str, start: int, length: int) -> bytes:
    """Part of a file; raises OSError where the file ends before it."""
    if is_remote(path):
        data = _remote().read(path, start, start + length)
    else:
        handle = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(handle, length, start)
        finally:
            os.close(handle)
    if len(data) != length:
        raise OSError(f"ends before byte {start + length}")
    return data


def open_binary(path: str) -> Any:
    """A file for reading, to be closed; remote ones can seek too."""
    return _remote().open_binary(path) if is_remote(path) else open(path, "rb")


def digests(files: Sequence[str]) -> list[str]:
    """A digest of each file's content: sha256, or for a remote file its store's checksum."""
    here = [file for file in files if not is_remote(file)]
    known = dict(zip(here, file_digests([Path(file) for file in here]), strict=True))
    return [known[file] if file in known else _remote().digest(file) for file in files]


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Yields (path from the folder, size) of all files below it, folder by folder, by name."""
    return _remote().files_below(folder) if is_remote(folder) else _walk(folder, "")


def _walk(folder: str, below: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, f"{below}{entry.name}/")
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
    entries = [given] if isinstance(given, str | Path) else list(given)
    files = [_expand(name, ending) for entry in entries for name in _braces(local(entry))]
    return list(chain.from_iterable(files))


def _expand(path: str, ending: str) -> list[str]:
    remote = is_remote(path)
    # In a web address a ? begins the query.
    pattern = re.search(r"\*" if path.startswith("http") else r"[*?[]", path)
    if pattern and (remote or not os.path.exists(path)):
        matched = _glob(path)
    elif not path.partition("?")[0].endswith(ending) and (
        _remote().is_folder(path) if remote else os.path.isdir(path)
    ):
        # Tools keep notes under names that begin so.
        matched = [
            file
            for file in _glob(join(path, f"**/*{ending}"))
            if not short_names([file])[0].startswith("_")
        ]
    else:
        return [path]
    if not matched:
        raise UserError(f"{path}: no {ending} file there; check the data's path.")
    return sorted(matched)


def _glob(pattern: str) -> list[str]:
    try:
        return (
            _remote().matching(pattern)
            if is_remote(pattern)
            else glob.glob(pattern, recursive=True)
        )
    except OSError as error:
        raise UserError(f"{pattern}: {reason(error)}; check the data's path.") from error


def _braces(path: str) -> list[str]:
    """{a,b} and {00..12} spelled out."""
    match = re.search(r"\{([^{}]*)\}", path)
    if match is None:
        return [path]
    if ends := RANGE.fullmatch(match[1]):
        first, last = ends.groups()
        options = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        options = match[1].split(",")
    rest = _braces(path[match.end() :])
    return [path[: match.start()] + option + end for option in options for end in rest]


def _remote() -> Any:
    # Deferred: local data needs none of it.
    from cleanclip_jax.data import remote

    return remote
