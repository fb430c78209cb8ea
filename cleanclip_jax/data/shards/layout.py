"""What a folder of prepared pairs holds (ArrayRecord shards, their index, dataset.json), and how
its files are written: here or in a store, each whole or not at all.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa

from cleanclip_jax.data.paths import check_bytes, is_remote, local
from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import in_bucket
from cleanclip_jax.record import fingerprint_of

VERSION = 1
ENDING = ".array_record"
DATASET = "dataset.json"
INDEX = "index.arrow"
WORK = ".prepare"  # in a folder that prepare has not finished

# A record a group: one is read without its neighbours. Pictures are compressed already.
WRITING = "group_size:1,uncompressed"
INDEX_SCHEMA = pa.schema(
    [
        *(("caption", pa.large_string()), ("label", pa.int64())),
        *(("where", pa.large_string()), ("row", pa.int64())),
    ]
)


SHAPE = {  # of dataset.json
    "version": {VERSION},
    "fingerprint": str,
    "class_names": ([str], None),
    "plan": {},
    "index": {"bytes": int, "sha256": str},
    "shards": [{"name": str, "records": int, "bytes": int, "sha256": str}],
}


@dataclass(frozen=True)
class Shard:
    """A file of records, as dataset.json describes it."""

    name: str
    records: int
    bytes: int
    sha256: str

    def __post_init__(self):
        kinds = [type(value) for value in (self.name, self.sha256, self.records, self.bytes)]
        if kinds != [str, str, int, int] or self.records < 0 or "/" in self.name:
            raise ValueError(f"it has {self}")


def pack(image: bytes, caption: str, label: int, where: str, row: int) -> bytes:
    """A record's payload.

    Args:
      image: an encoded picture.
      label: -1 where there is none.
      where: the place that it came from, in words.
      row: its index in the source that it came from.
    """
    record = {"image": image, "caption": caption, "label": label, "where": where, "row": row}
    return msgpack.Packer().pack(record)


def unpack(data: bytes) -> dict[str, Any]:
    """Reads what `pack` made; raises ValueError on anything else."""
    check_bytes(len(data))
    try:
        record = msgpack.unpackb(data)
        pair = {key: record[key] for key in ("image", *INDEX_SCHEMA.names)}
    except Exception as error:  # msgpack has errors of many kinds
        raise ValueError("no pair as `cleanclip prepare` writes them") from error
    kinds = [type(value) for value in pair.values()]
    fits = kinds == [bytes, str, int, str, int] and -1 <= pair["label"] < 2**31
    if not fits or not -1 <= pair["row"] < 2**63:
        raise ValueError("no pair as `cleanclip prepare` writes them")
    return pair


@contextmanager
def shard_writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Gives the function that adds a record to a new shard; it raises OSError on a full disk."""
    # Deferred: whoever only reads has no use for it.
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), WRITING)

    def write(data: bytes) -> None:
        writer.write(data)
        if not writer.ok():
            raise RuntimeError("writing failed")

    try:
        yield write
        writer.close()
    except RuntimeError as error:
        raise OSError(reason(error)) from error


@contextmanager
def index_writer(path: Path, metadata: dict[str, str] | None = None) -> Iterator[Any]:
    """Gives the writer of an index, or of the part of one shard, which its metadata describe."""
    # Without metadata and with none are two files, and the index decides the fingerprint.
    schema = INDEX_SCHEMA if metadata is None else INDEX_SCHEMA.with_metadata(metadata)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        yield writer


def fingerprint(
    shards: Sequence[Shard], index: str | None, class_names: Sequence[str] | None
) -> str:
    """What tells prepared pairs apart: every byte of their files, whatever these are called."""
    content = [(shard.records, shard.sha256) for shard in shards]
    return fingerprint_of(version=VERSION, shards=content, index=index, class_names=class_names)


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
