"""CSV, TSV and parquet files to one uncompressed Arrow file that can be memory-mapped.

Parquet is compressed by row group and a CSV has no index: neither gives a row at random access
without holding the table in memory. Each file is converted once, in a stream, to the cache.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from cleanclip_jax.data.records import fingerprint_of, order_names
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.files import cache_folder, written_whole

log = logging.getLogger(__name__)

FORMAT = 1
DELIMITERS = {"csv": ",", "tsv": "\t"}
BATCH_ROWS = 1024
BLOCK_BYTES = 16 << 20  # of text at a time; a row must fit


@dataclass(frozen=True)
class Selection:
    """The columns and rows of a file that become a source.

    Attributes:
      image, caption, class_name: columns; a caption or class_name of None leaves it out.
      where: column → the value, or a list of the values, that a row must hold.
      rows: first and last (exclusive) row, counted among the rows that `where` leaves.
    """

    image: str
    caption: str | None
    class_name: str | None
    where: Mapping[str, object]
    rows: tuple[int, int | None]

    def columns(self) -> list[str]:
        named = [self.image, self.caption, self.class_name, *self.where]
        return list(dict.fromkeys(name for name in named if name is not None))


def arrow_copy(file: Path, kind: str, selection: Selection) -> tuple[Path, str]:
    """The memory-mappable copy of a file's selected rows, made unless it is there already.

    Columns of the copy: image (bytes or null), path (text or null), caption (text or null),
    label (int64, -1: none) and row (int64, counted from 1 as in the file, without its header);
    the class names, those of the whole file, so that its splits agree, are in the metadata.

    Returns:
      The copy's path and a fingerprint of the file's content and the selection.

    Raises:
      UserError: on a missing or broken file, a missing column, or when no row is left.
    """
    fingerprint = fingerprint_of(
        file=_digest(file, kind), format=FORMAT, kind=kind, **vars(selection)
    )
    copy = cache_folder() / "tables" / f"{fingerprint[:32]}.arrow"
    if copy.exists():
        return copy, fingerprint
    try:
        _check_columns(file, kind, selection)
        log.info("converting %s to %s, once", file, copy)
        with written_whole(copy) as part:
            _write(file, kind, selection, part)
    except pa.ArrowException as error:
        raise UserError(f"{file}: unreadable as {kind} ({_line(error)}).") from error
    except OSError as error:
        raise UserError(
            f"{copy.parent}: cannot convert {file.name} to there ({_line(error)}); "
            "set CLEANCLIP_CACHE to a folder with space."
        ) from error
    return copy, fingerprint


def _digest(file: Path, kind: str) -> str:
    """Content of a text file; size and footer of a parquet file, which may be too big to read."""
    try:
        with file.open("rb") as stream:
            if kind in DELIMITERS:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 8, 0))
            tail = stream.read()
            if tail[-4:] != b"PAR1":
                raise UserError(f"{file}: not a parquet file, or one cut short.")
            stream.seek(max(size - 8 - int.from_bytes(tail[:4], "little"), 0))
            return hashlib.sha256(b"%d " % size + stream.read()).hexdigest()
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UserError(f"{file}: {reason}; check the data's path.") from error


def _batches(file: Path, kind: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        with pyarrow.parquet.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(BATCH_ROWS, columns=columns)
    else:
        # Everything is text: a caption that reads as a number or a date stays what it is.
        with pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=DELIMITERS[kind], newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string())
            ),
        ) as reader:
            yield from reader


def _check_columns(file: Path, kind: str, selection: Selection) -> None:
    if kind == "parquet":
        present = pyarrow.parquet.read_schema(file).names
    else:
        parse = pyarrow.csv.ParseOptions(delimiter=DELIMITERS[kind], newlines_in_values=True)
        with pyarrow.csv.open_csv(file, parse_options=parse) as reader:
            present = reader.schema.names
    for column in selection.columns():
        if column not in present:
            raise UserError(
                f"{file}: no column {column!r}, it has {', '.join(present)}."
                + near(column, present)
            )


def _write(file: Path, kind: str, selection: Selection, target: Path) -> None:
    names = _class_names(file, kind, selection.class_name)
    schema = pa.schema(
        {
            "image": pa.large_binary(),
            "path": pa.large_string(),
            "caption": pa.large_string(),
            "label": pa.int64(),
            "row": pa.int64(),
        },
        metadata={"class_names": json.dumps(names)},
    )
    start, stop = selection.rows
    seen = kept = written = 0
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in _batches(file, kind, selection.columns()):
            rows = np.arange(seen, seen + batch.num_rows)
            seen += batch.num_rows
            chosen = _filter(file, batch, selection.where)
            rank = kept + np.cumsum(chosen) - 1
            kept += int(chosen.sum())
            chosen &= rank >= start
            if stop is not None:
                chosen &= rank < stop
            if chosen.any():
                rows = rows[chosen]
                written += len(rows)
                picked = batch.filter(pa.array(chosen))
                writer.write_batch(_columns(file, picked, selection, names, rows, schema))
            if stop is not None and kept >= stop:
                break
    if not written:
        raise UserError(_nothing_left(file, kind, selection, kept))


def _columns(
    file: Path,
    batch: pa.RecordBatch,
    selection: Selection,
    names: tuple[str, ...] | None,
    rows: np.ndarray,
    schema: pa.Schema,
) -> pa.RecordBatch:
    none = pa.nulls(batch.num_rows)
    image, path = _image_columns(file, selection.image, _plain(batch.column(selection.image)))
    caption = none if selection.caption is None else _plain(batch.column(selection.caption))
    labels = np.full(batch.num_rows, -1)
    if names is not None and selection.class_name is not None:
        index = {name: i for i, name in enumerate(names)}
        values = _plain(batch.column(selection.class_name)).cast(pa.large_string()).to_pylist()
        labels = np.array([index.get(value, -1) for value in values])
    made = {"image": image, "path": path, "caption": caption, "label": labels, "row": rows + 1}
    return pa.record_batch(
        [pa.array(made[field.name]).cast(field.type) for field in schema], schema=schema
    )


def _image_columns(file: Path, name: str, column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """An image column as files' bytes and files' paths."""
    none = pa.nulls(len(column))
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column, none
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return none, column
    if pa.types.is_struct(kind):
        # Hugging Face's image feature: {bytes, path}, either of which may be null.
        fields = dict(zip([field.name for field in kind], column.flatten(), strict=True))
        if "bytes" in fields or "path" in fields:
            return fields.get("bytes", none), fields.get("path", none)
    raise UserError(
        f"{file}: column {name!r} holds {kind}, not image files (binary, or a struct of bytes "
        "and path) or their paths (text)."
    )


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _class_names(file: Path, kind: str, column: str | None) -> tuple[str, ...] | None:
    if column is None:
        return None
    names: set[str] = set()
    for batch in _batches(file, kind, [column]):
        values = _plain(batch.column(0)).cast(pa.large_string()).unique()
        names.update(value for value in values.to_pylist() if value)
    return order_names(names)


def _filter(file: Path, batch: pa.RecordBatch, where: Mapping[str, object]) -> np.ndarray:
    chosen = np.ones(batch.num_rows, bool)
    for name, wanted in where.items():
        column = _plain(batch.column(name))
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            values = [str(value) for value in values]
        try:
            wanted_values = pa.array(values).cast(column.type)
            matches = pc.is_in(column, wanted_values)  # pyright: ignore[reportAttributeAccessIssue]
        except pa.ArrowException as error:
            raise UserError(
                f"{file}: where {name}={wanted!r} does not fit the column, which holds "
                f"{column.type}."
            ) from error
        chosen &= matches.to_numpy(zero_copy_only=False)
    return chosen


def _nothing_left(file: Path, kind: str, selection: Selection, kept: int) -> str:
    if not selection.where or kept:
        return f"{file}: rows {selection.rows} of {kept}: none left."
    asked = ", ".join(f"{name}={value!r}" for name, value in selection.where.items())
    name, wanted = next(iter(selection.where.items()))
    values: set[str] = set()
    for batch in _batches(file, kind, [name]):
        values.update(str(value) for value in _plain(batch.column(0)).unique().to_pylist())
    some = ", ".join(repr(value) for value in sorted(values)[:10])
    more = ", …" if len(values) > 10 else ""
    return f"{file}: no row where {asked}; {name} holds {some}{more}." + near(str(wanted), values)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
