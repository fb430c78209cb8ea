"""The folder that prepare writes, here or in a store: file by file, each whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cleanclip_jax.data.paths import is_remote, local
from cleanclip_jax.data.shards.layout import WORK
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket


class Output:
    """Files by name below a folder; pickles as its address.

    What is put into a local folder is on the disk when its name appears, so that a name means a
    whole file after a power cut too. Stores (gs://, s3:// …) do the same of themselves.

    Attributes:
      folder: the folder where it is a local one.
    """

    def __init__(self, place: str):
        self.place = place
        self.folder = None if is_remote(place) else Path(local(place))
        self._path = self.folder or in_bucket(place) or Path()

    def __reduce__(self):
        return Output, (self.place,)

    def names(self) -> list[str]:
        """The files in the folder, and the folders in it but that of the work's notes."""
        try:
            return sorted(path.name for path in self._path.iterdir() if path.name != WORK)
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int | None:
        """A file's bytes; None where there is no such file."""
        path = self._path / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with self.scratch() as folder:
            (folder / "file").write_bytes(content)
            self.put(folder / "file", name)

    def put(self, file: Path, name: str) -> None:
        """Moves a file out of a scratch folder to its name."""
        target = self._path / name
        if (bucket := in_bucket(target)) is not None:
            bucket.put(file)
            file.unlink()
        else:
            _sync(file)
            file.replace(target)
            _sync(target.parent)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Gives a local folder to make files in; what is left in it afterwards goes."""
        options: dict[str, Any] = {"prefix": "part-", "ignore_cleanup_errors": True}
        with tempfile.TemporaryDirectory(dir=self._work(), **options) as name:
            yield Path(name)

    def scratches(self) -> list[Path]:
        """The scratch folders in use or left behind, where these lie in the folder itself."""
        return [] if self.folder is None else sorted((self.folder / WORK).glob("part-*"))

    def clear_scratches(self) -> None:
        for folder in self.scratches():
            shutil.rmtree(folder, ignore_errors=True)

    def remove_work(self) -> None:
        """Removes the work's notes, when it is done."""
        work = self._path / WORK
        if (bucket := in_bucket(work)) is not None:
            bucket.remove(but="")
        elif work.exists():
            shutil.rmtree(work)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While the block runs no other process on this machine takes the folder."""
        if (work := self._work()) is None:
            yield
            return
        with (work / "lock").open("w") as lock:
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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
