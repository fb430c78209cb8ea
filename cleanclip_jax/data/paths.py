"""Data files by local path or remote address: gs://, s3://, http:// and whatever fsspec knows.

Everything here raises OSError with the file's name for what cannot be read, also where a store has
errors of its own.
"""

import errno
import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cleanclip_jax.data.file_digests import file_digests
from cleanclip_jax.errors import UserError

Result = TypeVar("Result")

# Where stores keep a checksum of a file's content, or a tag that changes with it.
CHECKSUMS = ("md5Hash", "crc32c", "ETag", "etag", "Content-MD5", "content_md5", "Digest")
BLOCK_BYTES = 8 << 20
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


def reason(error: BaseException) -> str:
    """An error's reason in one line, without the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def read_bytes(path: str) -> bytes:
    """A whole file."""
    if is_remote(path):
        return _ask(path, lambda store, name: store.cat_file(name))
    with open(path, "rb") as stream:
        return stream.read()


def read_range(path: str, start: int, length: int) -> bytes:
    """Part of a file; raises OSError where the file ends before it."""
    if is_remote(path):
        data = _ask(path, lambda store, name: store.cat_file(name, start=start, end=start + length))
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
    if is_remote(path):
        return _ask(path, lambda store, name: store.open(name, "rb", block_size=BLOCK_BYTES))
    return open(path, "rb")


def digests(files: Sequence[str]) -> list[str]:
    """A digest of each file's content: sha256, or for a remote file its store's own checksum.

    A remote file without one is read whole, each time.
    """
    here = [file for file in files if not is_remote(file)]
    known = dict(zip(here, file_digests([Path(file) for file in here]), strict=True))
    return [known[file] if file in known else _remote_digest(file) for file in files]


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Yields (path from the folder, size) of all files below it, folder by folder, by name."""
    if not is_remote(folder):
        yield from _walk(folder, "")
        return
    found = _ask(folder, lambda store, name: (name.rstrip("/"), store.find(name, detail=True)))
    root, files = found
    if not files:
        raise FileNotFoundError(errno.ENOENT, "No such folder, or an empty one", folder)
    # As below: "a b/1" after "a/1".
    for name in sorted(files, key=lambda name: name.split("/")):
        yield name.removeprefix(root).lstrip("/"), files[name]["size"]


def _walk(folder: str, below: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
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
      ending: of the files that are meant in a folder, with its dot.

    Raises:
      UserError: a pattern or folder has no file; files that are named may not be there.
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    found = [_expand(name, ending) for entry in entries for name in _braces(local(entry))]
    return list(chain.from_iterable(found))


def _expand(path: str, ending: str) -> list[str]:
    remote = is_remote(path)
    # In a web address a ? begins the query.
    pattern = re.search(r"\*" if path.startswith("http") else r"[*?[]", path)
    if pattern and not (not remote and os.path.exists(path)):
        matched = _remote_glob(path) if remote else glob.glob(path, recursive=True)
    elif not path.partition("?")[0].endswith(ending) and _is_folder(path):
        inside = join(path, f"**/*{ending}")
        matched = _remote_glob(inside) if remote else glob.glob(inside, recursive=True)
        # Tools keep notes of their own under such names.
        matched = [file for file in matched if not short_names([file])[0].startswith("_")]
    else:
        return [path]
    if not matched:
        raise UserError(f"{path}: no {ending} file there; check the data's path.")
    return sorted(matched)


def _is_folder(path: str) -> bool:
    if is_remote(path):
        return _ask(path, lambda store, name: store.isdir(name))
    return os.path.isdir(path)


def _remote_glob(pattern: str) -> list[str]:
    def find(store: Any, name: str) -> list[str]:
        return [store.unstrip_protocol(file) for file in store.glob(name)]

    try:
        return _ask(pattern, find)
    except OSError as error:
        raise UserError(f"{pattern}: {reason(error)}; check the data's path.") from error


def _braces(path: str) -> list[str]:
    """{a,b} and {00..12} spelled out."""
    match = re.search(r"\{([^{}]*)\}", path)
    if match is None:
        return [path]
    if ends := RANGE.fullmatch(match[1]):
        width = len(ends[1])
        options = [f"{number:0{width}d}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        options = match[1].split(",")
    rest = _braces(path[match.end() :])
    return [path[: match.start()] + option + end for option in options for end in rest]


def _remote_digest(path: str) -> str:
    about = _ask(path, lambda store, name: store.info(name))
    for key in CHECKSUMS:
        if about.get(key):
            return f"{key} {about[key]} of {about.get('size')} bytes"
    with open_binary(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _ask(path: str, question: Callable[[Any, str], Result]) -> Result:
    # Deferred: local data needs none of it.
    import fsspec

    try:
        return question(*fsspec.core.url_to_fs(path))
    except FileNotFoundError as error:
        # fsspec says so of whatever a web server refuses.
        status = getattr(error.__cause__, "status", 404)
        text = "No such file" if status == 404 else f"the server answers {status}"
        raise FileNotFoundError(errno.ENOENT, text, path) from error
    except Exception as error:  # also a store's own: of a login, a connection, a missing package
        raise OSError(errno.EIO, f"{type(error).__name__}: {reason(error)}", path) from error
