"""Pairs from ArrayRecord shards: a folder that cleanclip prepare wrote, or shards alone.

What a prepared folder must hold its dataset.json says. Shards without one are read through once,
for an index in the cache.
"""

import bisect
import itertools
import logging
import re
import resource
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from cleanclip_jax.cache import Held, cached, file_digests
from cleanclip_jax.data.paths import is_remote, local
from cleanclip_jax.data.shards import layout
from cleanclip_jax.data.shards.layout import Shard
from cleanclip_jax.errors import UserError, reason, refusing
from cleanclip_jax.files import cache_folder, read_json
from cleanclip_jax.record import Record, Source
from cleanclip_jax.views.decode import BadRecord

log = logging.getLogger(__name__)

SCAN_RECORDS = 64
COPY_ANEW = "copy it anew or prepare the data anew"


def open_arrayrecord(path: str | Path) -> "ArrayRecords":
    """A folder of shards that `cleanclip prepare` wrote; a remote one is fetched once."""
    if is_remote(str(path)):
        from cleanclip_jax.data.remote import fetched

        folder = fetched(str(path))
    else:
        folder = Path(local(path))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that cleanclip prepare wrote.")
    if (folder / layout.DATASET).is_file():
        return _prepared(folder)
    if (folder / layout.WORK).is_dir():
        raise UserError(
            f"{folder}: cleanclip prepare has not finished here; the same command goes on."
        )
    return _scanned(folder)


class ArrayRecords(Source):
    """Pairs in shards at random access; pickles as the files' paths, opened by each process."""

    def __init__(
        self,
        folder: Path,
        index: Path,
        shards: tuple[Shard, ...],
        class_names: tuple[str, ...] | None,
        fingerprint: str,
    ):
        self._args = (folder, index, shards, class_names, fingerprint)
        self._folder, self._shards = folder, shards
        self.class_names, self.fingerprint = class_names, fingerprint
        self._ends = list(itertools.accumulate(shard.records for shard in shards))
        with refusing(str(index), COPY_ANEW, OSError, ValueError, KeyError, pa.ArrowException):
            self._held = Held(index) if index.parent == cache_folder() / "tables" else None
            table = pa.ipc.open_file(pa.memory_map(str(index))).read_all()
            table = table.select(layout.INDEX_SCHEMA.names).cast(layout.INDEX_SCHEMA)
            self._captions, self._labels, self._wheres, _ = table.columns
            labels, most = self.labels(), len(class_names) if class_names else 2**31
            if len(table) != self._ends[-1] or labels.min() < -1 or labels.max() >= most:
                raise ValueError("it is of other shards or classes")
        self._records: Any = None

    def __reduce__(self):
        return ArrayRecords, self._args

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        if self._records is None:
            self._records = self._open()
        try:
            record = layout.unpack(self._records[index])
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            shard = bisect.bisect_right(self._ends, index)
            place = index - self._ends[shard] + self._shards[shard].records
            raise BadRecord(
                f"{self.where(index)}: in {self._shards[shard].name}, record {place}: "
                f"{reason(error)}."
            ) from error
        return Record(record["image"], record["caption"], record["label"], record["where"])

    def caption(self, index: int) -> str:
        return self._captions[index].as_py()

    def where(self, index: int) -> str:
        return self._wheres[index].as_py()

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._labels.to_numpy()

    def _open(self) -> Any:
        # Deferred: it takes a fifth of a second to import, and other sources do not need it.
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        # Every shard stays open, and a process may by default open 1024 files.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self._shards) > soft // 2:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        # The brackets spare opening all shards to count their records.
        return ArrayRecordDataSource(
            [f"{self._folder / shard.name}[0:{shard.records}]" for shard in self._shards]
        )


def _prepared(folder: Path) -> ArrayRecords:
    path = folder / layout.DATASET
    dataset = read_json(path, layout.SHAPE, COPY_ANEW)
    with refusing(f"{path} is not as cleanclip prepare writes it", COPY_ANEW, ValueError):
        shards = tuple(
            Shard(each["name"], each["records"], each["bytes"], each["sha256"])
            for each in dataset["shards"]
        )
        stated = dataset["index"]
        index = Shard(layout.INDEX, len(shards), stated["bytes"], stated["sha256"])
        if not sum(shard.records for shard in shards):
            raise ValueError("no records")
    names = dataset["class_names"]
    same = layout.fingerprint(shards, index.sha256, names) == dataset["fingerprint"]
    _check_files(folder, [*shards, index])
    if not same:
        raise UserError(f"{path}: modified since it was written; prepare the data anew.")
    names = None if names is None else tuple(names)
    return ArrayRecords(folder, folder / layout.INDEX, shards, names, dataset["fingerprint"])


def _check_files(folder: Path, files: Sequence[Shard]) -> None:
    paths = [folder / file.name for file in files]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: missing, as {len(missing)} of the {len(files)} files that "
            f"{layout.DATASET} names; bring it back or prepare the data anew."
        )
    for path, file in zip(paths, files, strict=True):
        if (size := path.stat().st_size) != file.bytes:
            raise UserError(
                f"{path}: {size} bytes where {layout.DATASET} says {file.bytes}; cut short or "
                f"replaced: {COPY_ANEW}."
            )
    for path, file, digest in zip(paths, files, file_digests(paths), strict=True):
        if digest != file.sha256:
            raise UserError(f"{path}: its content is not what {layout.DATASET} says; {COPY_ANEW}.")


def _scanned(folder: Path) -> ArrayRecords:
    """A folder of shards without a dataset.json: read through once, for captions and labels."""
    paths = sorted(folder.glob(f"*{layout.ENDING}"))
    if not paths:
        raise UserError(
            f"{folder}: no *{layout.ENDING} in it; give a folder that cleanclip prepare wrote."
        )
    # Shards are called NAME-00003-of-00016: that says how many there must be.
    pattern = r"(.*)-\d+-of-(\d+)" + re.escape(layout.ENDING)
    numbered = Counter(m.groups() for path in paths if (m := re.fullmatch(pattern, path.name)))
    for (name, total), here in numbered.items():
        if here != int(total):
            raise UserError(
                f"{folder}: {here} of the {int(total)} shards {name}-*-of-{total}{layout.ENDING} "
                "are there; bring the others back."
            )
    shards = tuple(
        Shard(path.name, _opened(path).num_records(), path.stat().st_size, digest)
        for path, digest in zip(paths, file_digests(paths), strict=True)
    )
    content = layout.fingerprint(shards, None, None)
    todo = "set CLEANCLIP_CACHE to a folder with space"
    with refusing(f"{cache_folder()}: cannot write the index of {folder} there", todo, OSError):
        index = cached(
            f"tables/{content[:32]}.arrow", lambda part: _write_index(folder, shards, part)
        )
    return ArrayRecords(folder, index.path, shards, None, content)


def _opened(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    if not reader.ok():
        raise UserError(f"{path}: no ArrayRecord file, or one cut short; copy it anew.")
    return reader


def _write_index(folder: Path, shards: Sequence[Shard], target: Path) -> None:
    log.info("reading the captions of %d shards in %s, once", len(shards), folder)
    readable = 0
    with layout.index_writer(target) as writer:
        for shard in shards:
            reader = _opened(folder / shard.name)
            for start in range(0, shard.records, SCAN_RECORDS):
                rows = []
                for place in range(start, min(start + SCAN_RECORDS, shard.records)):
                    try:
                        row = layout.unpack(reader.read([place])[0])
                        readable += 1
                    except (RuntimeError, ValueError, IndexError, OSError):
                        # Stays a record: whoever reads it gets an error that says what is wrong.
                        where = f"{shard.name} record {place}"
                        row = {"caption": "", "label": -1, "where": where, "row": -1}
                    rows.append({name: row[name] for name in layout.INDEX_SCHEMA.names})
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=layout.INDEX_SCHEMA))
    if not readable:
        raise UserError(
            f"{folder}: no record in its shards is a pair as cleanclip prepare writes them."
        )
