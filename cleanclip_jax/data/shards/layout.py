"""What a folder of prepared pairs holds: ArrayRecord shards, their index and dataset.json."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa

from cleanclip_jax.data.paths import check_bytes
from cleanclip_jax.errors import reason
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
