"""Pairs from WebDataset tars, as img2dataset writes them: indexed once, then at random access."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanclip_jax.data.paths import expand, open_binary
from cleanclip_jax.data.table.rows import Rows
from cleanclip_jax.data.table.table import Table, make_table
from cleanclip_jax.data.table.tar_index import Member, members

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
BATCH_ROWS = 8192
PLACE = pa.struct({"start": pa.int64(), "length": pa.int64()})


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
      path: a tar, a folder of tars, a pattern (also with braces) or a list: see paths.expand.
      caption: 'txt', the sample's .txt file, or a key of its .json.
      class_name: 'cls', the sample's .cls file, or a key of its .json.
      classes, rows, templates: as in data.tables.open_table.
      where: key of the .json → value or list of values, compared as text.

    Raises:
      UserError: on a missing, cut or compressed tar, a missing key, or when no row is left.
    """
    return make_table(
        expand(path, ".tar"),
        TarReader(),
        image="image",
        caption=caption,
        class_name=class_name,
        classes=classes,
        where=where,
        rows=rows,
        templates=templates,
    )


@dataclass
class _Sample:
    key: str
    files: dict[str, Member] = field(default_factory=dict)  # by ending


@dataclass(frozen=True)
class TarReader:
    """Reads a tar's samples; a column is the text of the file of that ending, or a .json's key."""

    kind: str = "tar"

    def columns(self, file: str) -> list[str] | None:
        with open_binary(file) as stream:
            first = next(_samples(stream), None)
            if first is None:
                return None
            found = ["image", *(name for name in first.files if name not in PICTURES)]
            if "json" in first.files:
                found += _json(stream, first)
            return found

    def batches(self, file: str, columns: list[str]) -> Iterator[Rows]:
        with open_binary(file) as stream:
            rows: list[tuple[list, str | None, str]] = []
            for sample in _samples(stream):
                rows.append((*_row(stream, sample, columns), f"sample {sample.key}"))
                if len(rows) == BATCH_ROWS:
                    yield _rows(rows, columns)
                    rows = []
            if rows:
                yield _rows(rows, columns)


def _samples(stream: Any) -> Iterator[_Sample]:
    def key(member: Member) -> str:
        folder, slash, name = member.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    for name, files in groupby(members(stream), key):
        sample = _Sample(name)
        for member in files:
            sample.files[member.name[len(name) + 1 :].lower()] = member
        # Hidden files, such as macOS leaves beside others, have no name before the dot.
        if not name.endswith("/") and name:
            yield sample


def _row(stream: Any, sample: _Sample, columns: list[str]) -> tuple[list, str | None]:
    """A sample's values, and what is wrong with it."""
    notes: dict[str, Any] | None = None
    values: list[Any] = []
    try:
        for column in columns:
            if column == "image":
                picture = next(
                    (sample.files[name] for name in PICTURES if name in sample.files), None
                )
                if picture is None:
                    raise ValueError(f"no picture in it, but {', '.join(sample.files)}")
                values.append({"start": picture.start, "length": picture.size})
            elif column in sample.files:
                values.append(_content(stream, sample.files[column]).decode().rstrip("\r\n"))
            elif "json" in sample.files:
                notes = _json(stream, sample) if notes is None else notes
                values.append(_text(notes.get(column)))
            else:
                values.append(None)
    except ValueError as error:  # also of text that is not utf-8, and of broken JSON
        return [None] * len(columns), str(error)
    return values, None


def _json(stream: Any, sample: _Sample) -> dict[str, Any]:
    found = json.loads(_content(stream, sample.files["json"]))
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    text = value if value is None or isinstance(value, str) else json.dumps(value)
    if text is not None:
        text.encode()  # JSON can write half a character
    return text


def _content(stream: Any, member: Member) -> bytes:
    stream.seek(member.start)
    return stream.read(member.size)


def _rows(rows: list[tuple[list, str | None, str]], columns: list[str]) -> Rows:
    values, bad, names = zip(*rows, strict=True)
    arrays = [
        pa.array(column, PLACE if name == "image" else pa.large_string())
        for name, column in zip(columns, zip(*values, strict=True), strict=True)
    ]
    return Rows(
        pa.record_batch(arrays, names=columns),
        pa.array(bad, pa.string()),
        pa.array(names, pa.large_string()),
    )
