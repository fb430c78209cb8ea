"""Safetensors files, read by mapping them into memory and written tensor by tensor.

The format is a length, a JSON table of names, types, shapes and offsets, and the bytes. The
`safetensors` package reads whole copies and knows no bfloat16 in NumPy; the tests hold this
against it both ways.
"""

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cleanclip_jax.errors import UserError

TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_CODES = {np.dtype(kind): code for code, kind in TYPES.items()}
_LONGEST_TABLE = 100_000_000  # bytes, the bound of the format's own reader


def looks_like_safetensors(path: Path) -> bool:
    """Whether the file begins as one."""
    with path.open("rb") as file:
        start = file.read(9)
    size = path.stat().st_size
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors by name, in the order in which they lie in the file, and its metadata.

    The arrays are read-only views of the mapped file.

    Raises:
      UserError: the file is damaged, or holds a type that CLIP has no use for.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > min(_LONGEST_TABLE, path.stat().st_size - 8):
                raise ValueError("its table is longer than itself")
            table = json.loads(file.read(length))
            metadata = dict(table.pop("__metadata__", {}))
            spans = sorted((row["data_offsets"], name) for name, row in table.items())
            end = 0
            for (begin, stop), name in spans:
                kind, shape = TYPES.get(table[name]["dtype"]), table[name]["shape"]
                if kind is None:
                    raise UserError(
                        f"{path}: {name} is of type {table[name]['dtype']}, which CLIP has no use "
                        "for"
                    )
                if begin != end or stop - begin != math.prod(shape) * np.dtype(kind).itemsize:
                    raise ValueError(f"{name} lies elsewhere than its table says")
                end = stop
            if path.stat().st_size != 8 + length + end:
                raise ValueError("its length is not what its table says")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is a damaged safetensors file ({error})") from None
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = {}
    for (begin, _), name in spans:
        kind, shape = TYPES[table[name]["dtype"]], tuple(table[name]["shape"])
        flat = np.frombuffer(data, kind, math.prod(shape), 8 + length + begin)
        tensors[name] = flat.reshape(shape)
    return tensors, metadata


def file_order(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names as they lie in a file: wider types first, so that each is aligned."""
    return sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes the tensors in the order of `file_order`, one after the other."""
    order = file_order(tensors)
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in order:
        values = tensors[name]
        begin, end = end, end + values.nbytes
        code = _CODES[values.dtype]
        table[name] = {"dtype": code, "shape": values.shape, "data_offsets": [begin, end]}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            values = np.ascontiguousarray(tensors[name])
            file.write(values.reshape(-1).view(np.uint8).data)
