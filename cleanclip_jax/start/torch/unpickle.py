"""Pickles of PyTorch as data: tensors, numbers, strings and containers; nothing named is run.

A pickle may name any function of any package and call it. Here a name gives one of this module's
own inert types, or the file is refused. What is built holds no reference to code: tensors are
described (`Tensor`), and become arrays only after their places in the file have been checked.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cleanclip_jax.errors import UserError

# Types of elements by the storage class that stands for them in the file.
STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
# What may lie beside tensors and is of no use here.
_INERT = {
    *("torch.Size", "torch.device", "collections.Counter", "collections.defaultdict"),
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in ("set", "complex")),
    *("_codecs.encode", "torch.serialization._get_layout"),
    *("torch.jit._pickle.restore_type_tag", "torch.jit._pickle.build_intlist"),
    *("torch.jit._pickle.build_doublelist", "torch.jit._pickle.build_boollist"),
}
_TYPES = {f"torch.{kind}" for kind in (*STORAGES.values(), "half", "float", "double", "long")}
_NOT_PLAIN = ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_qtensor")


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in the file: which, of what type, and how many."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in a storage; offset and strides in elements. Nothing is checked yet."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class Module:
    """An object of a TorchScript archive: its class by name, and its attributes in order."""

    __slots__ = ("attributes", "kind")
    kind: str
    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


class _Dict(dict):
    """An OrderedDict; torch hangs the versions of its modules on it, which are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Inert:
    """Stands for a value that is of no use here."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class Unpickler(pickle._Unpickler):
    """Reads one pickle of a file of torch.save or TorchScript.

    In Python, not C: there an index of the memo alone can take 64 GiB of memory.

    Args:
      stream: a binary file or BytesIO, at the pickle's beginning.
      where: the file, for messages.
    """

    # Makes room for as many bytes as the file says before it reads them.
    dispatch = {  # noqa: RUF012
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, stream: Any, where: object):
        super().__init__(stream, encoding="utf-8")
        self._where = where
        self.storages: dict[str, Storage] = {}  # all that the pickle names
        # Bound methods: unlike functions, they take no attributes that a file may set.
        self._functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
        }

    def find_class(self, module: str, name: str) -> Any:
        """What stands here for a name in the file."""
        full = f"{module}.{name}"
        if full in self._functions:
            return self._functions[full]
        if full == "collections.OrderedDict":
            return _Dict
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Scripted", (Module,), {"__slots__": (), "kind": full})
        if module == "torch" and name.endswith("Storage"):
            return full
        if full in _INERT or full in _TYPES:
            return _Inert
        if module == "torch._utils" and name in _NOT_PLAIN:
            raise UserError(f"{self._where} holds a sparse or quantised tensor: CLIP has none")
        raise UserError(
            f"{self._where} wants to run code when it is read ({full}): refused, nothing was run; "
            "save its tensors alone (torch.save(model.state_dict(), ...))"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """A storage that the file names."""
        what, kind, key, _, count = pid[:5]
        if (what, type(kind), type(key), type(count)) != ("storage", str, str, int):
            raise pickle.UnpicklingError("it refers to what is no storage")
        return self.storages.setdefault(key, Storage(key, kind, count))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
        return Tensor(storage, offset, shape, strides)

    def _parameter(self, data: Any, *_: Any) -> Any:
        return data
