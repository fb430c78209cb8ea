"""Pickles of PyTorch as data: tensors, numbers, strings and containers; nothing named is run.

A pickle may name any function of any package and call it. Here a name gives one of this module's
own inert types, or the file is refused. What is built holds no reference to code: tensors are
described (`Tensor`), and become arrays only after their places in the file have been checked.
"""

import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

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
# What may lie beside tensors and is of no use here: numbers of NumPy, settings, kinds of values.
_BUILTINS = ("set", "frozenset", "complex", "list", "tuple", "dict", "int", "float", "str", "bool")
_BUILTINS += ("long", "unicode", "bytes", "bytearray", "object", "range", "slice")
_NUMPY = ("core.multiarray", "_core.multiarray")
_INERT = {
    *("torch.Size", "torch.device", "torch.serialization._get_layout", "torch.Generator"),
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in _BUILTINS),
    *(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool")),
    *("torch.jit._pickle.restore_type_tag", "numpy.ndarray"),
    *(f"numpy.{home}._reconstruct" for home in _NUMPY),
    *("argparse.Namespace", "types.SimpleNamespace", "copy_reg._reconstructor"),
    *("copyreg._reconstructor", "pathlib.PosixPath", "pathlib._local.PosixPath"),
    *("datetime.datetime", "datetime.date", "datetime.timedelta"),
}
_DICTS = {f"collections.{name}" for name in ("OrderedDict", "defaultdict", "Counter")}
_TYPES = {f"torch.{kind}" for kind in (*STORAGES.values(), "half", "float", "double", "long")}
# Of torch._utils, the tensors that are no plain ones.
_NOT_PLAIN = re.compile(r"_rebuild_\w*(sparse|qtensor|nested|meta|wrapper)\w*")
_KEYS = (str, int, float, bool, bytes, type(None))
_CLASSES = 20_000  # classes of a TorchScript archive


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
        self.attributes = state if isinstance(state, dict) else {}


class _Dict(dict):
    """An OrderedDict, defaultdict or Counter; what hangs on it beside its items is dropped."""

    __slots__ = ()

    def __init__(self, *args: Any):
        # A default's kind is no items; an OrderedDict of Python 2 is made of a list of them.
        for items in (x for x in args if isinstance(x, dict | list)):
            pairs = list(items.items() if isinstance(items, dict) else items)
            _check_keys(key for key, _ in pairs)
            self.update(pairs)

    def __setstate__(self, state: Any) -> None:
        pass


class _Inert:
    """Stands for a value that is of no use here."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


_NOTHING = _Inert()


class _Kind(_Inert):
    """A type of NumPy's, by its name: "f8"."""

    __slots__ = ("name",)

    def __new__(cls, name: Any = "", *_: Any) -> Any:
        kind = super().__new__(cls)
        kind.name = name
        return kind

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state[1:2] == (">",):
            self.name = ""  # a number of another byte order


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuses keys whose hash walks through what a file has built: it has no bound in C."""
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(type(part) in _KEYS or isinstance(part, _Inert) for part in parts):
            raise pickle.UnpicklingError(f"a key of a dictionary is a {type(key).__name__}")


_python: Any = pickle._Unpickler


def _keys_first(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """One of pickle's ways to fill a dictionary, after a look at the keys on the stack."""

    def checked(reader: Any) -> None:
        _check_keys(reader.stack[keys])
        load(reader)

    return checked


class Unpickler(pickle._Unpickler):
    """Reads one pickle of a file of torch.save or TorchScript.

    In Python, not C: there an index of the memo alone can take 64 GiB of memory.

    Args:
      stream: a binary file or BytesIO, at the pickle's beginning.
      where: the file, for messages.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        **_python.dispatch,
        pickle.DICT[0]: _keys_first(_python.load_dict, slice(None, None, 2)),
        pickle.SETITEM[0]: _keys_first(_python.load_setitem, slice(-2, -1)),
        pickle.SETITEMS[0]: _keys_first(_python.load_setitems, slice(None, None, 2)),
        pickle.EMPTY_SET[0]: lambda reader: reader.append(_NOTHING),
        pickle.ADDITEMS[0]: lambda reader: reader.pop_mark(),
        pickle.FROZENSET[0]: lambda reader: reader.append(reader.pop_mark() and _NOTHING),
    }
    # Makes room for as many bytes as the file says before it reads them.
    del dispatch[pickle.BYTEARRAY8[0]]

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
            "_codecs.encode": self._bytes,
            **{f"numpy.{home}.scalar": self._number for home in _NUMPY},
        }
        self._classes: dict[str, type[Module]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands here for a name in the file."""
        full = f"{module}.{name}"
        if full in self._functions:
            return self._functions[full]
        if full in _DICTS:
            return _Dict
        if full == "numpy.dtype":
            return _Kind
        if module == "__torch__" or module.startswith("__torch__."):
            if full not in self._classes:
                if len(self._classes) == _CLASSES:
                    raise UserError(f"{self._where} holds more than {_CLASSES} classes: refused")
                self._classes[full] = type("Scripted", (Module,), {"__slots__": (), "kind": full})
            return self._classes[full]
        if module == "torch" and name.endswith("Storage"):
            return full
        if full in _INERT or full in _TYPES:
            return _Inert
        if module == "torch._utils" and _NOT_PLAIN.fullmatch(name):
            raise UserError(
                f"{self._where} holds a sparse, quantised or nested tensor: CLIP has none"
            )
        raise UserError(
            f"{self._where} holds more than data: it names {full[:200]}, which would run when it "
            "is read: refused, nothing was run; save its tensors alone "
            "(torch.save(model.state_dict(), ...))"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """A storage that the file names."""
        what, kind, key, _, count = pid[:5]
        if (what, type(kind), type(key), type(count)) != ("storage", str, str, int):
            raise pickle.UnpicklingError("it refers to what is no storage")
        storage = self.storages.setdefault(key, Storage(key, kind, count))
        if storage != Storage(key, kind, count):
            raise pickle.UnpicklingError(f"it says two things of storage {key}")
        return storage

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Tensor:
        # Behind whether it has a gradient, and its hooks.
        if any(map(bool, more[2:])):
            raise UserError(
                f"{self._where} holds a tensor whose values are to be negated or conjugated "
                f"({str(more[2])[:80]}): save it as it is meant (x.resolve_neg())"
            )
        return Tensor(storage, offset, shape, strides)

    def _parameter(self, data: Any, *_: Any) -> Any:
        return data

    def _bytes(self, text: Any, *encoding: Any) -> Any:
        """What Python 2's pickles write bytes as."""
        plain = isinstance(text, str) and encoding in (("latin1",), ("latin-1",))
        return text.encode("latin-1") if plain else _NOTHING

    def _number(self, kind: Any, data: Any = None) -> Any:
        """A scalar of NumPy's as a number of Python's."""
        name = str(kind.name) if isinstance(kind, _Kind) else ""
        if not re.fullmatch("[biuf][1248]", name) or not isinstance(data, bytes):
            return _NOTHING
        return np.frombuffer(data, f"<{name}", 1)[0].item()
