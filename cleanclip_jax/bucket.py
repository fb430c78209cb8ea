"""Paths in a bucket: pathlib's methods over fsspec, for gs://, s3:// and whatever else it knows.

An object is put whole or not at all, so what is written takes its place at once. A folder is there
as soon as something lies below it. Nothing is renamed, and nothing appended to: lines for a file
are gathered here, and the whole file is put again now and then.
"""

import atexit
import errno
import fnmatch
import io
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any, TypeVar

from cleanclip_jax.errors import UserError

Result = TypeVar("Result")

# Seconds between two puts of a file that grows, times its megabytes where they are more than one.
EVERY = 30.0
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}


class BucketPath(PosixPath):
    """A path at an address, as gs://bucket/run.

    Raises (all methods that reach the bucket): FileNotFoundError; OSError (EIO) with the store's
    reason for everything else.
    """

    def __str__(self) -> str:
        # pathlib takes the two slashes for one.
        return re.sub(r"^([^/]+:)/(?!/)", r"\1//", super().__str__())

    def _do(self, work: Callable[[Any, str], Result]) -> Result:
        import fsspec  # deferred: local paths need none of it

        try:
            # Other processes write there too: nothing is answered from memory.
            return work(*fsspec.core.url_to_fs(str(self), use_listings_cache=False))
        except (FileNotFoundError, IsADirectoryError):
            raise FileNotFoundError(errno.ENOENT, "No such file or bucket", str(self)) from None
        except Exception as error:  # a store's own: of a login, a connection
            text = " ".join(str(error).split()) or type(error).__name__
            raise OSError(errno.EIO, text, str(self)) from error

    def is_file(self) -> bool:
        return str(self) in _growing or self._do(lambda store, name: store.isfile(name))

    def is_dir(self) -> bool:
        return self._do(lambda store, name: store.isdir(name))

    def stat(self, **_: Any) -> Any:
        size = self._do(lambda store, name: store.size(name))
        return os.stat_result((0, 0, 0, 1, 0, 0, size or 0, 0, 0, 0))

    def exists(self, **_: Any) -> bool:
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Generator["BucketPath", None, None]:
        paths = self._do(lambda store, name: store.ls(name, detail=False))
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return (self / name for name in sorted(names - {self.name}))

    def glob(self, pattern: str, **_: Any) -> Generator["BucketPath", None, None]:
        paths = self.iterdir() if self.is_dir() else ()
        return (path for path in paths if fnmatch.fnmatchcase(path.name, pattern))

    def files(self) -> list[str]:
        """The paths of all files below, seen from here."""

        def find(store: Any, name: str) -> list[str]:
            root = f"{name.rstrip('/')}/"
            return sorted(path.removeprefix(root) for path in store.find(name) if path != name)

        return [name for name in self._do(find) if name]

    def mkdir(self, *_: Any, **__: Any) -> None:
        pass

    def read_bytes(self) -> bytes:
        if (file := _growing.get(str(self))) is not None:
            return file.content
        return self._do(lambda store, name: store.cat_file(name))

    def read_text(self, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: Any) -> int:
        _growing.pop(str(self), None)
        self._do(lambda store, name: store.pipe_file(name, bytes(data)))
        return len(data)

    def write_text(self, data: str, *_: Any, **__: Any) -> int:
        return self.write_bytes(data.encode())

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        if mode not in ("r", "rb"):
            raise io.UnsupportedOperation(f"{self}: in a bucket nothing is opened for {mode!r}")
        return io.BytesIO(self.read_bytes()) if mode == "rb" else io.StringIO(self.read_text())

    def unlink(self, missing_ok: bool = False) -> None:
        _growing.pop(str(self), None)
        try:
            self._do(lambda store, name: store.rm_file(name))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self

    def expanduser(self) -> "BucketPath":
        return self

    def remove(self, but: str) -> None:
        """Removes all files below, but for one of that name."""
        if names := [each for each in self.files() if each != but]:
            self._do(lambda store, name: store.rm([f"{name}/{each}" for each in names]))

    def put(self, local: Path) -> None:
        """Copies a local file to this path, or all files below a local folder to below it."""
        if local.is_file():
            self._do(lambda store, name: store.put_file(str(local), name))
        elif names := [str(f.relative_to(local)) for f in local.rglob("*") if _is_plain(f)]:
            files = [str(local / each) for each in names]
            self._do(lambda store, name: store.put(files, [f"{name}/{each}" for each in names]))

    def get(self, local: Path) -> None:
        """Copies all files below this path to below a local folder."""
        if not (names := self.files()):
            raise FileNotFoundError(errno.ENOENT, "Nothing lies there", str(self))
        for each in names:
            (local / each).parent.mkdir(parents=True, exist_ok=True)
        files = [str(local / each) for each in names]
        self._do(lambda store, name: store.get([f"{name}/{each}" for each in names], files))

    def copy(self) -> Path:
        """A local copy of this file or folder, made once and kept until the program ends."""
        if str(self) not in _copies:
            folder = _temporary()
            local = folder / self.name
            if self.is_file():
                self._do(lambda store, name: store.get_file(name, str(local)))
            else:
                try:
                    self.get(local)
                except FileNotFoundError:
                    raise UserError(f"there is no {self}: check the path") from None
            _copies[str(self)] = folder
        return _copies[str(self)] / self.name

    def append(self, line: str) -> None:
        """Adds a line to this file; it lies in the bucket soon, and at the latest after `flush`."""
        if (file := _growing.get(str(self))) is None:
            try:
                before = self.read_bytes()
            except FileNotFoundError:
                before = b""
            file = _growing[str(self)] = _Growing(before)
        file.content += line.encode()
        file.waiting = True
        if time.monotonic() - file.put_at > EVERY * max(1, len(file.content) / 1e6):
            self._put(file)

    def scratch(self) -> Path:
        """A local folder whose files `flush` copies to below this path."""
        if str(self) not in _scratch:
            _scratch[str(self)] = _temporary()
        return _scratch[str(self)]

    def flush(self) -> None:
        """Puts what was added to files below this path, and what lies in their scratch folders."""
        for name, file in list(_growing.items()):
            if file.waiting and BucketPath(name).is_relative_to(self):
                BucketPath(name)._put(file)
        for name, scratch in _scratch.items():
            if BucketPath(name).is_relative_to(self):
                BucketPath(name).put(scratch)

    def _put(self, file: "_Growing") -> None:
        self._do(lambda store, name: store.pipe_file(name, file.content))
        file.put_at, file.waiting = time.monotonic(), False


@dataclass
class _Growing:
    """A file that lines are added to: all of it, as it is to lie in the bucket."""

    content: bytes
    put_at: float = -math.inf
    waiting: bool = False


_growing: dict[str, _Growing] = {}
_scratch: dict[str, Path] = {}
_copies: dict[str, Path] = {}


def _temporary() -> Path:
    """A local folder that goes when the program ends."""
    folder = tempfile.mkdtemp(prefix="cleanclip-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def bucket_path(text: str) -> BucketPath:
    """The path of an address; refuses one that can't be reached."""
    import fsspec

    protocol = text.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(protocol)
        todo = f"pip install 'cleanclip-jax[{extra}]'" if extra else "name a local folder"
        raise UserError(f"{text} can't be opened ({error}): {todo}") from None
    path = BucketPath(text)
    try:
        path.is_dir()
    except OSError as error:
        raise UserError(f"{text} can't be reached: {error.strerror}") from None
    return path
