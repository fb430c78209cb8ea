"""The folder that prepare writes, here or in a store: file by file, each whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cleanclip_jax.data.paths import is_remote
from cleanclip_jax.data.shards.format import WORK
from cleanclip_jax.errors import UserError, reason


class Output:
    """Files by name below a folder; pickles as its address.

    What is put into a local folder is on the disk when its name appears, so that a name means a
    whole file after a power cut too. Stores (gs://, s3:// …) do the same of themselves.

    Every method raises UserError where the folder cannot be read or written.
    """

    def __init__(self, place: str):
        self.place = place
        self.folder = None if is_remote(place) else Path(place).expanduser()

    def __reduce__(self):
        return Output, (self.place,)

    def names(self) -> list[str]:
        """The files in the folder, and the folders in it that are not the work's own."""
        with self._told():
            if self.folder is not None:
                return [path.name for path in self.folder.glob("*") if path.name != WORK]
            store, root = self._store()
            if not store.exists(root):
                return []
            found = (entry["name"].rstrip("/") for entry in store.ls(root, detail=True))
            return [name for path in found if (name := path.rpartition("/")[2]) != WORK]

    def size(self, name: str) -> int | None:
        """A file's bytes; None where there is no such file."""
        with self._told():
            try:
                if self.folder is not None:
                    return (self.folder / name).stat().st_size
                store, root = self._store()
                return store.size(f"{root}/{name}")
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes:
        with self._told():
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            store, root = self._store()
            return store.cat_file(f"{root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        with self.scratch() as folder, self._told():
            (folder / "file").write_bytes(content)
            self.put(folder / "file", name)

    def put(self, file: Path, name: str) -> None:
        """Moves a file out of a scratch folder to its name."""
        with self._told():
            if self.folder is not None:
                _sync(file)
                file.replace(self.folder / name)
                _sync((self.folder / name).parent)
            else:
                store, root = self._store()
                store.put_file(str(file), f"{root}/{name}")
                file.unlink()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Gives a local folder to make files in; what is left in it afterwards goes.

        Raises:
          UserError: also when the block ends in an OSError, as on a full disk.
        """
        with self._told():
            base = None
            if self.folder is not None:
                base = self.folder / WORK
                base.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix="part-", dir=base, ignore_cleanup_errors=True
            ) as name:
                yield Path(name)

    def scratches(self) -> list[Path]:
        """The scratch folders in use or left behind, where these lie in the folder itself."""
        return [] if self.folder is None else sorted((self.folder / WORK).glob("part-*"))

    def clear_scratches(self) -> None:
        for folder in self.scratches():
            shutil.rmtree(folder, ignore_errors=True)

    def remove_work(self) -> None:
        """Removes the work's own files, when it is done."""
        with self._told():
            if self.folder is not None:
                shutil.rmtree(self.folder / WORK, ignore_errors=True)
            else:
                store, root = self._store()
                if store.exists(f"{root}/{WORK}"):
                    store.rm(f"{root}/{WORK}", recursive=True)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While the block runs no other process on this machine takes the folder."""
        if self.folder is None:
            yield
            return
        with self._told():
            (self.folder / WORK).mkdir(parents=True, exist_ok=True)
            lock = (self.folder / WORK / "lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.place}: another cleanclip prepare is at work here."
                ) from None
            yield

    def _store(self) -> tuple[Any, str]:
        # Deferred: a local folder needs none of it.
        import fsspec

        store, root = fsspec.core.url_to_fs(self.place)
        store.invalidate_cache()
        return store, root.rstrip("/")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            # A store's errors are of its own kinds; any other that is no OSError is a fault here.
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
