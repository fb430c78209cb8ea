"""Hostile files: files that are right, changed in one place or in several, by a seed.

A `Kind` is a file that a reader of the package opens, with right content and that reader.
"""

import copy
import io
import json
import math
import random
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

DEEP = "@deep {} @"  # stands for so many lists within each other
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 1.5, -0.5, 1e308, math.nan, math.inf, -math.inf),
    *(2**31, 2**40, 2**63, -(2**63), 10**300, "", "x", "a\nb", "\x1b[31mred", "\0", "\ud800", "é"),
    *("../../../etc/passwd", "/dev/zero", "/dev/null", "~nosuchuser/x", "x" * 300, "x" * 70_000),
    *([], [[]], [None], ["a"], [1, 2, 3], {}, {"a": 1}, {"": {}}, {"a.b": {"c": 1}}, {"x": [{}]}),
    *(DEEP.format(50), DEEP.format(900), DEEP.format(100_000)),
]
SIZES = [0, 1, 2, 3, 4, 7, 16, 48, 64, 300, 2**20, 2**31, 2**34, 2**62, 2**63 - 1, 2**64, -1, -4]


def dumped(value: Any) -> bytes:
    """JSON as no writer of ours would give it: NaN, half characters, any depth."""
    text = json.dumps(value)
    for depth in (50, 900, 100_000):
        text = text.replace(f'"{DEEP.format(depth)}"', "[" * depth + "]" * depth)
    return text.encode()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within a value of JSON."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


def changed_json(rng: random.Random, value: Any) -> Any:
    """The value with one to three of its parts replaced, removed, renamed or added to."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(places(value)))
        if not path:
            return rng.choice(ODD) if rng.random() < 0.3 else value
        *above, last = path
        parent = value
        for key in above:
            parent = parent[key]
        what = rng.random()
        if what < 0.7:
            parent[last] = copy.deepcopy(rng.choice(ODD))
        elif what < 0.85:
            del parent[last]
        elif isinstance(parent, dict):
            parent[rng.choice(("x", "", "\n", str(last).upper()))] = parent.pop(last)
        else:
            parent += copy.deepcopy(parent)
    return value


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes with bits flipped, parts lost, added to or put elsewhere."""
    what, n = rng.random(), len(data)
    a, b = sorted((rng.randrange(n + 1), rng.randrange(n + 1)))
    if what < 0.5:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(n)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    noise = rng.randbytes(rng.choice((1, 4, 64)))
    rest = (data[:a], data[:a] + data[b:], data[:a] + noise + data[a:], data[:a] + noise)
    return rng.choice((*rest, data + data, b"", noise, b"\xef\xbb\xbf" + data, b"\0" * n))


def changed_text(rng: random.Random, content: Any) -> bytes:
    """A JSON file of this content, wrong in its values or in its bytes."""
    if rng.random() < 0.75:
        return dumped(changed_json(rng, content))
    return changed_bytes(rng, dumped(content))


def changed_lines(rng: random.Random, rows: list[Any]) -> bytes:
    """A .jsonl file of these rows, of which some are wrong."""
    if rng.random() < 0.3:
        return changed_bytes(rng, b"".join(dumped(row) + b"\n" for row in rows))
    some = {rng.randrange(len(rows)) for _ in range(rng.choice((1, 2, 5)))}
    wrong = (changed_json(rng, row) if i in some else row for i, row in enumerate(rows))
    return b"".join(dumped(row) + b"\n" for row in wrong)


# Safetensors.


def safetensors(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a right file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, x in sorted(tensors.items()):
        kind = {"float32": "F32", "int64": "I64"}[x.dtype.name]
        ends = [len(data), len(data) + x.nbytes]
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": ends}
        data += x.tobytes()
    return header, data


def changed_safetensors(rng: random.Random, header: dict[str, Any], data: bytes) -> bytes:
    """A file of safetensors whose header, length or bytes are wrong."""
    text, what = dumped(header), rng.random()
    if what < 0.6:
        text = dumped(changed_json(rng, header))
    elif what < 0.8:
        wrong, name = copy.deepcopy(header), rng.choice([n for n in header if n[0] != "_"])
        shape, kinds = wrong[name]["shape"], ("F64", "F8_E4M3", "BF16", "BOOL", "U16", "C64", "F4")
        if shape and rng.random() < 0.7:
            shape[rng.randrange(len(shape))] = rng.choice(SIZES)
        else:
            wrong[name]["dtype"] = rng.choice(kinds)
        if rng.random() < 0.3:
            wrong[name]["data_offsets"] = [rng.choice(SIZES), rng.choice(SIZES)]
        text = dumped(wrong)
    size = len(text) if rng.random() < 0.9 else rng.choice(SIZES) % 2**64
    whole = struct.pack("<Q", size) + text + data
    return whole if what < 0.9 else changed_bytes(rng, whole)


# Files of torch.save and TorchScript, written by their opcodes: no torch is needed.


def text(value: str) -> bytes:
    data = value.encode(errors="surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: Any) -> bytes:
    return f"I{value}\n".encode() if type(value) is int else b"N" if value is None else b"G@" * 4


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def several(values: Any) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, kind: str, count: Any, offset: Any, shape: Any, strides: Any) -> bytes:
    """The opcodes that make a tensor of storage `key`."""
    storage = b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu")
    place = storage + number(count) + b"tQ" + number(offset) + several(shape) + several(strides)
    hooks = named("collections", "OrderedDict") + b")R"
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + place + b"\x89" + hooks + b"tR"


EVIL = [
    named("posix", "system") + b"(" + text("touch was-run") + b"tR",
    named("builtins", "exec") + b"(" + text("open('was-run', 'w')") + b"tR",
    named("builtins", "getattr") + b"(" + named("os", "path") + text("join") + b"tR",
    named("torch", "load") + b"(" + text("x") + b"tR",
    named("torch.storage", "_load_from_bytes") + b"(" + text("x") + b"tR",
    named("torch._utils", "_rebuild_sparse_tensor") + b"(NNtR",
    named("numpy.core.multiarray", "scalar") + b"(" + named("numpy", "dtype") + b"(NtRNtR",
    named("argparse", "Namespace") + b")\x81}" + text("a") + b"K\x01sb",
    b"\x8c\x05posix\x8c\x06system\x93" + b"(" + text("touch was-run") + b"tR",
    b"N" + b"\x85" * 200_000,
    b"]q\xffh\xffa",
    b"(" * 3000 + b"t" * 3000,
    b"\x8b\xff\xff\xff\x7f",
    b"\x8e" + b"\xff" * 7 + b"\x7f",
    b"r\xff\xff\xff\xff",
    b"\x97\x98",
    b"\x8f(" + b"N\x85" * 50 + b"\x90",
    b"P0\n",
]


def pickled(tensors: Mapping[str, np.ndarray], rng: random.Random | None = None) -> bytes:
    """The pickle of a state dict; with a generator, one that is wrong somewhere."""
    wrong = None if rng is None else rng.choice([*tensors])
    parts = [b"\x80\x02}("]
    for key, (name, x) in enumerate(tensors.items()):
        kind = {"float32": "FloatStorage", "int64": "LongStorage"}[x.dtype.name]
        strides = [each // x.itemsize for each in x.strides]
        args = [str(key), kind, x.size, 0, [*x.shape], strides]
        if rng is not None and name == wrong:
            which = rng.randrange(7)
            if which == 0:
                args[0] = rng.choice(("", "0", "99", "x\n", "../x"))
            elif which == 1:
                args[1] = rng.choice(("HalfStorage", "DoubleStorage", "QInt8Storage", "load"))
            elif which in (2, 3):
                args[which] = rng.choice((*SIZES, None, 1.5))
            elif which in (4, 5) and args[which]:
                args[which][rng.randrange(len(args[which]))] = rng.choice((*SIZES, None, 1.5))
            else:
                name = rng.choice(("", "x", "a\nb", "\ud800", "module.x", "x" * 100_000))
        parts += [text(name), tensor(*args)]
    parts.append(b"u.")
    if rng is not None and rng.random() < 0.4:
        evil = rng.choice(EVIL)
        parts.insert(rng.randrange(1, len(parts)), rng.choice((text("y") + evil, evil)))
    return b"".join(parts)


def archive(tensors: Mapping[str, np.ndarray], rng: random.Random | None = None) -> bytes:
    """A file as torch.save writes it; with a generator, one that is wrong somewhere."""
    what = 1.0 if rng is None else rng.random()
    stream, records = io.BytesIO(), {"data.pkl": pickled(tensors, rng if what < 0.5 else None)}
    records |= {f"data/{key}": x.tobytes() for key, x in enumerate(tensors.values())}
    records |= {"version": b"3\n", "byteorder": b"little"}
    if rng is None:
        rng = random.Random(0)
    if 0.5 <= what < 0.6:  # TorchScript's
        state = b"](" + rng.choice(EVIL) + b"Nte" if rng.random() < 0.2 else b""
        state = state or b"}(" + records["data.pkl"][4:-1]
        module = named("__torch__", "M") + b")\x81" + state + b"b."
        code = b"class M(Module):\n  __parameters__ = [" + rng.randbytes(9) + b"]\n"
        records |= {"data.pkl": module, "constants.pkl": b"N.", "code/__torch__.py": code}
    elif 0.6 <= what < 0.8:
        name = rng.choice([*records])
        kinds = {"x": rng.randbytes(9), "extra/cleanclip.json": dumped(changed_json(rng, {"a": 1}))}
        records = {**records, **kinds} if rng.random() < 0.5 else records
        records[name] = changed_bytes(rng, records[name])
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in records.items():
            packed = 0.6 <= what < 0.8 and rng.random() < 0.05
            file.writestr(f"a/{name}", content, rng.choice((8, 12, 14)) if packed else 0)
    data = bytearray(stream.getvalue())
    if 0.8 <= what < 0.9:  # a field of a record's header, or of its entry in the directory
        mark = rng.choice((b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"))
        heads = [i for i in range(len(data)) if data[i : i + 4] == mark]
        place = rng.choice(heads) + rng.choice((4, 6, 8, 10, 14, 18, 20, 22, 24, 26, 28, 42))
        data[place : place + 2] = struct.pack("<H", rng.choice(SIZES) % 2**16)
    return changed_bytes(rng, bytes(data)) if 0.9 <= what < 1 else bytes(data)


def legacy(tensors: Mapping[str, np.ndarray], rng: random.Random | None = None) -> bytes:
    """A file of torch.save before 1.6; with a generator, one that is wrong somewhere."""
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    deep = b"N" + b"\x85" * 200_000 if rng is not None and rng.random() < 0.02 else b""
    keys = b"".join(text(str(key)) for key in range(len(tensors)))
    keys = b"\x80\x02](" + keys + deep + b"e."
    wrong = rng is not None and rng.random() < 0.6
    data = magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}." + pickled(tensors, rng if wrong else None)
    data += keys
    for x in tensors.values():
        size = x.size if rng is None or rng.random() > 0.02 else rng.choice(SIZES) % 2**64
        data += struct.pack("<Q", size) + x.tobytes()
    return data if rng is None or wrong else changed_bytes(rng, data)
