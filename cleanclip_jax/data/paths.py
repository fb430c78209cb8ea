"""Data files by local path or remote address: gs://, s3://, http:// and whatever fsspec knows.

What reads raises OSError with the file's name for what cannot be read, also where a store has other
errors. Only regular files are read: a pipe or a device may never end.
"""

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanclip_jax.cache import file_digests
from cleanclip_jax.errors import UserError

MOST_BYTES = 1 << 29  # of a record, and of what else is read whole


def is_remote(path: str) -> bool:
    """Whether fsspec and not the operating system opens `path`."""
    return "://" in path


def local(path: str | Path) -> str:
    """A path as it is opened: ~ is the user's folder; remote addresses are left alone."""
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise UserError(f"{path!r} is no path: give a text without null characters")
    if is_remote(str(path)):
        return str(path)
    opened = os.path.expanduser(path)
    if opened.startswith("~") and not os.path.lexists(opened.partition("/")[0]):
        raise UserError(f"{opened}: there is no such user; check the path")
    return str(opened)


def is_one_file(given: object, ending: str) -> bool:
    """Whether `given` is a file's path by its look: no pattern and no folder (listing.expand)."""
    return re.fullmatch(rf"[^*?\[{{:]+{re.escape(ending)}", str(given)) is not None


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
        data = far_files().read(path, 0, MOST_BYTES + 1)
        check_bytes(len(data))
        return data
    with open_binary(path) as stream:
        check_bytes(os.fstat(stream.fileno()).st_size)
        return stream.read()


def read_range(path: str, start: int, length: int) -> bytes:
    """Part of a file; raises OSError where the file ends before it."""
    check_bytes(length)
    if is_remote(path):
        data = far_files().read(path, start, start + length)
    else:
        with open_binary(path) as stream:
            data = os.pread(stream.fileno(), length, start)
    if len(data) != length:
        raise OSError(f"ends before byte {start + length}")
    return data


def open_binary(path: str) -> Any:
    """A file for reading, to be closed; remote ones can seek too."""
    if is_remote(path):
        return far_files().open_binary(path)
    # Without blocking: opening a pipe would wait for its writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return os.fdopen(handle, "rb")


def digests(files: Sequence[str]) -> list[str]:
    """A digest of each file's content: sha256, or for a remote file its store's checksum."""
    here = [file for file in files if not is_remote(file)]
    for file in here:
        open_binary(file).close()
    known = dict(zip(here, file_digests([Path(file) for file in here]), strict=True))
    return [known[file] if file in known else far_files().digest(file) for file in files]


def far_files() -> Any:
    """data.remote, which local data does without."""
    from cleanclip_jax.data import remote

    return remote
