"""Files of torch.save, and TorchScript archives, read as data: without PyTorch, nothing is run."""

import math
import mmap
import re
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import check_plain
from cleanclip_jax.shapes import parse_json
from cleanclip_jax.start.torch.unpickle import STORAGES, Module, Storage, Tensor, Unpickler

# A record that torch.load passes over, beside TorchScript's own extra files.
NOTE = "extra/cleanclip.json"
# Bytes of a pickle, of an archive's code or of a note: CLIP's are below one million.
_LONGEST = 8 << 20
_MODULES = 100_000
_LEGACY = 0x1950A86A20F9469CFC6C  # begins files of before PyTorch 1.6
# A class of a TorchScript archive says in its source which attributes are its state.
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n(?:  __buffers__ = \[(.*)\]\n)?", re.M
)

BytesOf = Callable[[Storage], memoryview]


def read_torch_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a file of torch.save or TorchScript; what its tensors hold stays on the disk till used.

    Returns:
      what the file holds, tensors as arrays, and the note that `write_torch_file` left ({} if
      none). Of a TorchScript archive: its state dict.

    Raises:
      UserError: it is damaged, or holds anything but tensors, numbers, strings and containers.
    """
    try:
        check_plain(path)
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _archive(path, data) if data[:2] == b"PK" else (_legacy(path, data), {})
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path} is cut short or damaged ({reason(error)})") from None
    except (UserError, OSError):
        raise
    except Exception as error:  # garbage makes a pickle's reader stumble over anything
        why = reason(error)[:200]
        raise UserError(f"{path} is no checkpoint of PyTorch, or damaged ({why})") from None


def _archive(path: Path, data: memoryview) -> tuple[dict[str, Any], dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        records = {x.filename.partition("/")[2]: x for x in archive.infolist()}
        _check_records(path, archive, records, len(data))

        def read(name: str) -> bytes:
            size = records[name].file_size
            if size > _LONGEST:
                raise UserError(f"{path}: its {name} is larger than any of a CLIP: refused")
            with archive.open(records[name]) as stream:
                return stream.read(size)  # so many at most, whatever it unpacks to

        def storage(x: Storage) -> memoryview:
            info = records[f"data/{x.key}"]
            # Behind the record's own header, whose last two lengths vary.
            lengths = np.frombuffer(data, "<u2", 2, info.header_offset + 26)
            begin = info.header_offset + 30 + int(lengths.sum())
            return data[begin : begin + info.file_size]

        if "byteorder" in records and read("byteorder") != b"little":
            raise UserError(f"{path} was written on a big-endian machine: save it on another")
        content = Unpickler(BytesIO(read("data.pkl")), path).load()
        note = read_note(read(NOTE)) if NOTE in records else {}
        if "constants.pkl" in records:  # TorchScript
            content = _state(path, content, _classes(records, read))
    return _arrays(path, content, storage), note


def _check_records(path: Path, archive: zipfile.ZipFile, records: Any, size: int) -> None:
    """Refuses an archive that is not as torch writes it, or of which a bit has flipped."""
    packed = [x for x in archive.infolist() if x.compress_type != zipfile.ZIP_STORED]
    for name, info in records.items():
        # Of TorchScript's, code and what belongs to it.
        if info in packed and (
            name.startswith("data") or info.compress_type != zipfile.ZIP_DEFLATED
        ):
            raise UserError(f"{path}: its {name} is compressed, which torch's are not: refused")
    if len(records) != len(archive.infolist()):
        raise UserError(f"{path} holds two records of one name: refused")
    if sum(x.file_size for x in packed) > _LONGEST:
        raise UserError(f"{path} unpacks to more than any CLIP: refused")
    if sum(x.compress_size for x in records.values()) > size:
        raise UserError(f"{path} holds records that overlap: refused")
    if (bad := archive.testzip()) is not None:
        raise UserError(f"{path} is damaged: {bad} is not what its CRC32 says: copy it anew")


def _legacy(path: Path, data: memoryview) -> dict[str, Any]:
    """A file of before PyTorch 1.6: pickles, and the storages one after the other."""
    file = BytesIO(data[:_LONGEST])
    if Unpickler(file, path).load() != _LEGACY:
        raise ValueError("it does not begin as one")
    for _ in ("protocol", "system"):
        Unpickler(file, path).load()
    pickled = Unpickler(file, path)
    content, keys, places = pickled.load(), Unpickler(file, path).load(), {}
    end = file.tell()
    for key in filter(lambda key: isinstance(key, str), keys):
        begin = end + 8  # each begins with its count
        count = int.from_bytes(data[end:begin], "little")
        end = begin + count * _type(pickled.storages[key].kind).itemsize
        if end > len(data):
            raise ValueError("it ends before its tensors do")
        places[key] = slice(begin, end)
    return _arrays(path, content, lambda storage: data[places[storage.key]])


def _classes(records: Mapping[str, Any], read: Callable[[str], bytes]) -> dict[str, list[str]]:
    """Which attributes are the state of each class of an archive: parameters, then buffers."""
    names = [name for name in records if name.startswith("code/") and name.endswith(".py")]
    classes = {}
    for name in names:
        home = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for match in _CLASS.finditer(read(name).decode()):
            listed = re.findall(r'"([^"]*)"', f"{match[2]}, {match[3]}")
            classes[f"{home}.{match[1]}"] = listed
    return classes


def _state(path: Path, top: Any, classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """The state dict of an archive's module, as its own program would give it."""
    state, waiting, visits = {}, [("", top)], 0
    while waiting:
        prefix, module = waiting.pop()
        visits += 1
        if visits > _MODULES:  # a module may name another twice, and that one a third
            raise UserError(f"{path}: a module holds more than {_MODULES} others: refused")
        mine = module.attributes
        for name in classes.get(module.kind, ()):
            if isinstance(mine.get(name), Tensor):
                state[prefix + name] = mine[name]
        children = [(f"{prefix}{n}.", x) for n, x in mine.items() if isinstance(x, Module)]
        waiting += reversed(children)
    return state


def _arrays(path: Path, content: Any, bytes_of: BytesOf, top: bool = True) -> dict[str, Any]:
    """The same with every tensor in it, or in its tables, as an array on the file's bytes."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name")
    out, total = {}, 0
    for name, value in content.items():
        if top and isinstance(value, dict) and any(isinstance(x, Tensor) for x in value.values()):
            value = _arrays(path, value, bytes_of, top=False)
        elif isinstance(value, Tensor):
            value = _array(f"{path}: {name}", value, bytes_of)
            total += value.nbytes
        out[str(name)] = value
    # Weights may be tied; a number shown many times over would fill the memory.
    if total > 2 * path.stat().st_size:
        raise UserError(f"{path}: its tensors show the same bytes over and over: refused")
    return out


def _array(where: str, tensor: Tensor, bytes_of: BytesOf) -> np.ndarray:
    storage, shape = tensor.storage, tensor.shape
    if storage.kind not in STORAGES:
        raise UserError(f"{where} is of type {storage.kind}, which CLIP has no use for")
    numbers = (tensor.offset, *shape, *tensor.strides)
    # More elements than the storage has would be one of its numbers many times over.
    outside = any(type(x) is not int or x < 0 for x in numbers) or math.prod(shape) > storage.count
    if outside or max(shape, default=0) > max(storage.count, _LONGEST):  # beside one of nothing
        raise ValueError(f"{where} lies outside of its storage")
    kind, place = _type(storage.kind), bytes_of(storage)
    if len(place) != storage.count * kind.itemsize:
        raise ValueError(f"{where}: its storage has {len(place)} bytes for {storage.count} values")
    strides = [stride * kind.itemsize for stride in tensor.strides]
    # NumPy refuses what reaches beyond the bytes.
    return np.ndarray(shape, kind, place, tensor.offset * kind.itemsize, strides)


def _type(storage: str) -> np.dtype:
    kind = STORAGES[storage]
    return np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)


def read_note(text: str | bytes | None) -> dict[str, Any]:
    """What an export wrote of itself; {} where it wrote nothing, or nothing that can be read."""
    try:
        return parse_json("", text or "{}", {})
    except UserError:
        return {}
