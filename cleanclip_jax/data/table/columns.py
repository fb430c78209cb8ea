"""Columns of tables: what readers give, and what the Arrow copy of it holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from cleanclip_jax.errors import UserError, printable, refusing, unknown

pc: Any = compute  # its functions are made when it is imported: pyright knows none

# Columns that readers add to those of a file, whose names these cannot be.
BAD, NAME = "\0bad", "\0name"

SCHEMA = {
    "image": pa.large_binary(),  # a picture's bytes, or
    "path": pa.large_string(),  # where its file is, or
    "start": pa.int64(),  # where it begins in the table's file itself
    "length": pa.int64(),
    "file": pa.int32(),  # which of the table's files
    "caption": pa.large_string(),  # of several the first
    "captions": pa.list_(pa.large_string()),  # where there may be several
    "label": pa.int32(),  # -1: none
    "row": pa.int64(),  # in its file, from 1
    "name": pa.large_string(),
    "bad": pa.string(),  # why the record cannot be read
}
# What a table has none of takes no place in its copy.
MAY_LACK = {"captions", "image", "path", "start", "length", "name"}


def batch_of(
    columns: Mapping[str, pa.Array | Sequence[Any]],
    bad: list[str | None],
    names: Sequence[str | None] | None = None,
    why: str | None = None,
    lists: str | None = None,
) -> pa.RecordBatch:
    """Rows as a reader gives them, with why some cannot be read and, if not by number, names.

    A list is a column of texts, or of lists of texts where its name is `lists`; one that has
    surrogates makes its row bad, `why` or as not utf-8.
    """
    named = columns if names is None else {**columns, NAME: names}
    arrays = {
        name: column
        if isinstance(column, pa.Array)
        else _texts([*column], bad, why or f"column {name!r} is not utf-8", name == lists)
        for name, column in named.items()
    }
    reasons = [reason and printable(reason) for reason in bad]
    return pa.RecordBatch.from_pydict({**arrays, BAD: pa.array(reasons, pa.string())})


def _texts(values: list[Any], bad: list[str | None], why: str, lists: bool) -> pa.Array:
    kind = SCHEMA["captions" if lists else "caption"]
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        for i, value in enumerate(values):
            letters = "".join(filter(None, value or ()))
            if any("\ud800" <= letter <= "\udfff" for letter in letters):
                values[i], bad[i] = None, why
        return pa.array(values, kind)


@runtime_checkable
class Reader(Protocol):
    """Reads files of one kind; a frozen dataclass of all that decides what it gives."""

    @property
    def kind(self) -> str:
        """What its files are, for errors."""
        ...

    def columns(self, file: str) -> list[str] | None:
        """The columns that a file has; None where it has no row to tell."""
        ...

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """A file's rows, as `batch_of` makes them; one that cannot be read is never left out.

        Images are files' bytes, their paths (text), structs of bytes and path (either may be
        null), or structs of start and length in the file itself.
        """
        ...


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def texts(place: str, column: pa.Array) -> pa.Array:
    """A column as texts: numbers, truth values and dates are spelled out."""
    with refusing(f"{place} holds {column.type}", "it takes texts", pa.ArrowException):
        return column.cast(pa.large_string())


def captions(place: str, column: pa.Array) -> dict[str, pa.Array]:
    """A column of captions, or of lists of them; the NaN that pandas writes for none is none."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        text = texts(place, column)
        return {"caption": pc.if_else(pc.equal(pc.utf8_lower(text), "nan"), None, text)}
    with refusing(f"{place} holds {column.type}", "it takes texts", pa.ArrowException):
        lists = column.cast(SCHEMA["captions"])
        lists.validate(full=True)  # text that is none is an error of Arrow's
    several = [
        [text for text in texts or () if text and text.strip() and text.lower() != "nan"]
        for texts in lists.to_pylist()
    ]
    firsts = pa.array([texts[0] if texts else None for texts in several], SCHEMA["caption"])
    return {"captions": pa.array(several, SCHEMA["captions"]), "caption": firsts}


def labels(place: str, column: pa.Array, names: tuple[str, ...], given: bool) -> pa.Array:
    """Numbers of the classes; where their names are given, the column may hold numbers too."""
    index = {name: i for i, name in enumerate(names)}
    if given:
        # A column of whole numbers with gaps is written as 3.0 by many a tool.
        index = {f"{i}{end}": i for i in range(len(names)) for end in ("", ".0")} | index
    values = texts(place, column)
    for value in values.unique().to_pylist():
        if value and names.count(value) > 1:
            count = names.count(value)
            raise UserError(f"{place}={value!r} names {count} classes; give their numbers.")
        if value and value not in index:
            raise unknown(f"{place}, by name or number of {len(names)} classes", value, names)
    return pa.array([index.get(value, -1) for value in values.to_pylist()], pa.int32())


def images(place: str, column: pa.Array) -> dict[str, pa.Array]:
    """An image column as files' bytes, files' paths or places in the file itself."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return {"image": column}
    if is_text(kind):
        return {"path": column}
    if pa.types.is_struct(kind):
        # {bytes, path} is Hugging Face's image feature; {start, length} what tars' readers give.
        fields = dict(zip([field.name for field in kind], column.flatten(), strict=True))
        known = {"bytes": "image", "path": "path", "start": "start", "length": "length"}
        if columns := {known[field]: fields[field] for field in known if field in fields}:
            with refusing(place, "it takes images", pa.ArrowException):
                return {name: array.cast(SCHEMA[name]) for name, array in columns.items()}
    raise UserError(
        f"{place} holds {kind}, not image files (binary, or a struct of bytes and path) or their "
        "paths (text)."
    )


def holds(place: str, rows: pa.RecordBatch, name: str, wanted: object) -> np.ndarray:
    """Which rows' column `name` holds the value that is wanted, or one of a list of them."""
    column, values = rows.column(name), listed(wanted)
    try:
        values = [str(value) for value in values] if is_text(column.type) else values
        matches = pc.is_in(column, pa.array(values).cast(column.type))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise UserError(
            f"{place}: where {name}={wanted!r} does not fit the column, which holds {column.type}."
        ) from error
    # What a broken row holds nobody knows: it counts as one of any choice.
    matches = pc.or_(matches, pc.and_(column.is_null(), rows.column(BAD).is_valid()))
    return matches.to_numpy(zero_copy_only=False)


def listed(wanted: object) -> list[Any]:
    """A value, or a list of values, as a list."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]
