"""The folder that prepare writes, here or in a store: file by file, each whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cleanclip_jax.data.paths import is_remote, local
from cleanclip_jax.data.shards.layout import WORK
from cleanclip_jax.errors import UserError, reason


class Output:
    """Files by name below a folder; pickles as its address.

    What is put into a local folder is on the disk when its name appears, so that a name means a
    whole file after a power cut too. Stores (gs://, s3:// …) do the same of themselves.

    Every method raises UserError where the folder cannot be read or written.
    """

    def __init__(self, place: str):
        self.place = place
        self.folder = None if is_remote(place) else Path(local(place))

    def __reduce__(self):
        return Output, (self.place,)

    def names(self) -> list[str]:
        """The files in the folder, and the folders in it but that of the work's notes."""
        with self._store() as (store, root):
            try:
                entries = [entry["name"].rstrip("/") for entry in store.ls(root, detail=True)]
            except FileNotFoundError:
                return []
            names = (entry.rpartition("/")[2] for entry in entries)
            return [name for name in names if name != WORK]

    def size(self, name: str) -> int | None:
        """A file's bytes; None where there is no such file."""
        with self._store() as (store, root):
            try:
                return store.size(f"{root}/{name}")
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes:
        with self._store() as (store, root):
            return store.cat_file(f"{root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        with self.scratch() as folder:
            (folder / "file").write_bytes(content)
            self.put(folder / "file", name)

    def put(self, file: Path, name: str) -> None:
        """Moves a file out of a scratch folder to its name."""
        with self._store() as (store, root):
            if self.folder is None:
                store.put_file(str(file), f"{root}/{name}")
                file.unlink()
            else:
                _sync(file)
                file.replace(self.folder / name)
                _sync((self.folder / name).parent)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Gives a local folder to make files in; what is left in it afterwards goes.

        Raises UserError also when the block ends in an OSError, as on a full disk.
        """
        options: dict[str, Any] = {"prefix": "part-", "ignore_cleanup_errors": True}
        with self._store(), tempfile.TemporaryDirectory(dir=self._work(), **options) as name:
            yield Path(name)

    def scratches(self) -> list[Path]:
        """The scratch folders in use or left behind, where these lie in the folder itself."""
        return [] if self.folder is None else sorted((self.folder / WORK).glob("part-*"))

    def clear_scratches(self) -> None:
        for folder in self.scratches():
            shutil.rmtree(folder, ignore_errors=True)

    def remove_work(self) -> None:
        """Removes the work's notes, when it is done."""
        with self._store() as (store, root):
            if store.exists(f"{root}/{WORK}"):
                store.rm(f"{root}/{WORK}", recursive=True)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While the block runs no other process on this machine takes the folder."""
        with self._store():
            work = self._work()
            lock = None if work is None else (work / "lock").open("w")
        if lock is None:
            yield
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.place}: another cleanclip prepare is at work here."
                ) from None
            yield

    def _work(self) -> Path | None:
        """The local folder of the work's notes."""
        if self.folder is None:
            return None
        (self.folder / WORK).mkdir(parents=True, exist_ok=True)
        return self.folder / WORK

    @contextmanager
    def _store(self) -> Iterator[tuple[Any, str]]:
        """Gives the file system and the folder's path in it."""
        try:
            if self.folder is not None:
                yield LocalFileSystem(), str(self.folder.absolute())
                return
            store, root = fsspec.core.url_to_fs(self.place)
            store.invalidate_cache()
            yield store, root.rstrip("/")
        except UserError:
            raise
        except Exception as error:
            # Each store has other errors; one that is no OSError is a fault here.
            if self.folder is not None and not isinstance(error, OSError):
                raise
            raise UserError(
                f"{self.place}: cannot be read or written ({reason(error)}); the same command "
                "goes on when there is space and permission."
            ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
