"""Pairs from WebDataset tars, as img2dataset writes them: indexed once, then at random access."""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cleanclip_jax.data.listing import expand
from cleanclip_jax.data.paths import check_bytes, open_binary
from cleanclip_jax.data.table.columns import batch_of
from cleanclip_jax.data.table.table import Table, make_table
from cleanclip_jax.errors import reason
from cleanclip_jax.shapes import load_json

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
BATCH_ROWS = 8192
PLACE = pa.struct({"start": pa.int64(), "length": pa.int64()})
BLOCK = tarfile.BLOCKSIZE
MOST_EXTRA = 1 << 20  # bytes of a header that says more of the next one
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# What reads numbers and strings of a header; not documented, so pyright knows neither.
nti, nts = (vars(tarfile)[name] for name in ("nti", "nts"))


class Member(NamedTuple):
    """A file in a tar, `size` bytes from byte `start`."""

    name: str
    start: int
    size: int


def open_webdataset(
    path: str | Path | Sequence[str | Path],
    caption: str | None = "txt",
    class_name: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    rows: int | Sequence[int | None] | None = None,
    templates: str | Sequence[str] | None = None,
) -> Table:
    """Tar shards of samples: files that share their name up to its first dot, beside each other.

    Args:
      path: a tar, a folder of tars, a pattern (also with braces) or a list: see listing.expand.
      caption: 'txt', the sample's .txt file, or a key of its .json: a text or, if it is so in the
        first sample that has it, a list of texts, of which training draws one an epoch.
      class_name: 'cls', the sample's .cls file, or a key of its .json.
      classes, rows, templates: as in table.open_table.
      where: key of the .json → value or list of values, compared as text.
    """
    columns, chosen = ("image", caption, class_name), (where, rows, templates)
    files = expand(path, ".tar")
    listed = caption is not None and templates is None and _holds_list(files[0], caption)
    return make_table(files, TarReader(caption if listed else None), columns, chosen, classes)


@dataclass(frozen=True)
class TarReader:
    """Reads a tar's samples; a column is the text of the file of that ending, or a .json's key.

    Attributes:
      lists: the column that is read as lists of texts.
    """

    lists: str | None = None
    kind: str = "tar"

    def columns(self, file: str) -> list[str] | None:
        with open_binary(file) as stream:
            for _, files in (sample[:2] for sample in _samples(stream) if sample[2] is None):
                with suppress(ValueError, OSError):  # of a .json: the next sample tells as well
                    notes = _json(stream, files) if "json" in files else {}
                    return ["image", *(name for name in files if name not in PICTURES), *notes]
        return None

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with open_binary(file) as stream:
            samples = _samples(stream)
            while some := list(islice(samples, BATCH_ROWS)):
                rows = [_row(stream, files, columns, bad, self.lists) for _, files, bad in some]
                bad = [reason for _, reason in rows]
                arrays: dict[str, Any] = {
                    name: [values[k] for values, _ in rows] for k, name in enumerate(columns)
                }
                if "image" in arrays:
                    arrays["image"] = pa.array(arrays["image"], PLACE)
                named = [f"sample {name}" for name, _, _ in some]
                yield batch_of(arrays, bad, named, lists=self.lists)


def _holds_list(file: str, key: str) -> bool:
    """Whether the first sample that has a key in its .json has a list there."""
    # What is wrong with the tar is for its conversion to say.
    with suppress(ValueError, OSError), open_binary(file) as stream:
        for _, files, bad in _samples(stream):
            if bad is None and key in files:
                return False
            if bad is None and "json" in files:
                with suppress(ValueError, OSError):
                    if (value := _json(stream, files).get(key)) is not None:
                        return isinstance(value, list)
    return False


def members(stream: Any) -> Iterator[Member]:
    """Yields the files of an uncompressed tar (ustar, GNU or pax) in order.

    Between two of them the stream may be moved. Raises ValueError for what is no tar or was cut
    short: a whole one ends with blocks of zeros. `tarfile` takes five times as long.
    """
    end, place, extra = stream.seek(0, os.SEEK_END), 0, {}
    while True:
        stream.seek(place)
        header = stream.read(BLOCK)
        if header[:2] == b"\x1f\x8b":
            raise ValueError("a compressed file: unpack it")
        if len(header) < BLOCK:
            raise ValueError(f"cut short at byte {end}: the tar's end mark is missing")
        if not any(header):
            return
        try:
            # The checksum's place counts as spaces.
            sound = sum(header) - sum(header[148:156]) + 256 == nti(header[148:156])
            size = int(extra.get("size", nti(header[124:136])))
        except (tarfile.HeaderError, ValueError):
            sound, size = False, 0
        kind, start = header[156:157], place + BLOCK
        extends = kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
        if not sound or size < 0 or (extends and size > MOST_EXTRA):
            raise ValueError(f"no tar header at byte {place}")
        if start + size > end:
            raise ValueError(f"cut short at byte {end}: the file at byte {place} ends beyond it")
        place = start + -(-size // BLOCK) * BLOCK
        if kind == tarfile.XHDTYPE:
            extra |= _pax(stream.read(size))
        elif kind == tarfile.GNUTYPE_LONGNAME:
            extra["path"] = _string(stream.read(size))
        elif kind not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):  # of the whole tar, of a link
            if kind in REGULAR:
                prefix = (
                    _string(header[345:500]) if header[257:263] == tarfile.POSIX_MAGIC[:6] else ""
                )
                name = "/".join(filter(None, (prefix, _string(header[:100]))))
                yield Member(extra.get("path") or name, start, size)
            extra = {}


def _string(field: bytes) -> str:
    return nts(field, "utf-8", "replace")


def _pax(data: bytes) -> dict[str, str]:
    """Records 'length key=value', each with a line end."""
    values = {}
    while data:
        length = int(data.partition(b" ")[0])
        if length < 1:
            raise ValueError("a pax header of no length")
        key, _, value = data[: length - 1].partition(b" ")[2].partition(b"=")
        values[key.decode(errors="replace")] = value.decode(errors="replace")
        data = data[length:]
    return values


def _samples(stream: Any) -> Iterator[tuple[str, dict[str, Member], str | None]]:
    """Samples: name, files by ending, and why one cannot be read."""

    def name_of(member: Member) -> str:
        folder, slash, name = member.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    before: set[str] = set()
    for name, group in groupby(members(stream), name_of):
        files = list(group)
        by_ending = {file.name[len(name) + 1 :].lower(): file for file in files}
        bad = "two files of one name" if len(by_ending) < len(files) else None
        bad = "two samples of one name" if name in before else bad
        # Hidden files, such as macOS leaves beside others, have no name before the dot.
        if not name.endswith("/") and name:
            before.add(name)
            yield name, by_ending, bad


def _row(
    stream: Any,
    files: Mapping[str, Member],
    columns: Sequence[str],
    bad: str | None,
    lists: str | None,
) -> tuple[list[Any], str | None]:
    """A sample's values, and what is wrong with it."""
    notes: dict[str, Any] | None = None
    values: list[Any] = []
    try:
        if bad is not None:
            raise ValueError(bad)
        for column in columns:
            if column == "image":
                picture = next((files[name] for name in PICTURES if name in files), None)
                if picture is None:
                    raise ValueError(f"no picture in it, but {', '.join(files)}")
                values.append({"start": picture.start, "length": picture.size})
            elif column in files:
                text = _content(stream, files[column]).decode().rstrip("\r\n")
                values.append([text] if column == lists else text)
            elif "json" in files:
                notes = _json(stream, files) if notes is None else notes
                value = notes.get(column)
                several = value if isinstance(value, list) else [value]
                values.append([*map(_text, several)] if column == lists else _text(value))
            else:
                values.append(None)
    # Of text that is not utf-8, of broken JSON, and of files that are too large.
    except (ValueError, OSError) as error:
        return [None] * len(columns), reason(error)
    return values, None


def _json(stream: Any, files: Mapping[str, Member]) -> dict[str, Any]:
    notes = load_json(_content(stream, files["json"]))
    return notes if isinstance(notes, dict) else {}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _content(stream: Any, file: Member) -> bytes:
    check_bytes(file.size)
    stream.seek(file.start)
    return stream.read(file.size)
