"""What a key takes: its default, its type with range or choices, and a line of meaning.

One declaration serves a config's keys (config_keys.py), an attack's, a trigger's options and the
keys of a source: whatever reads a value checks it against this, and says in one line what is wrong.
"""

import ast
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError, unknown

REQUIRED: Any = inspect.Parameter.empty  # the default of a key that has none
LARGEST = 3.4e38  # of a number: what float32 holds
WHOLE_BELOW = 2**63  # whole numbers: what int64 holds
_TEXT = re.compile("[^\0\ud800-\udfff]{0,4095}")


def as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Key:
    """A key. None is taken where it is the default: as the start run's, or not used.

    Attributes:
      takes: the rule in words, "a whole number, 1 or more".
      accepts: whether a value keeps to it.
      meaning: a line for the list of keys.
      words: the choices, where it is one of these.
      text: what a command line gives is the value itself, though it look like a number.
      table: a dictionary, whose keys are set by `--config.this.key=`.
      nullable: None is a value of its own, which is not the default.
      convert: brings a value that is accepted to its type.
    """

    default: Any
    takes: str
    accepts: Callable[[Any], bool]
    meaning: str = ""
    words: tuple[str, ...] = ()
    text: bool = False
    table: bool = False
    nullable: bool = False
    convert: Callable[[Any], Any] = as_it_is

    def read(self, where: str, value: Any) -> Any:
        """Returns the value, checked, in its type; `where` names it in the error."""
        if value is None and (self.default is None or self.nullable):
            return None
        if not self.accepts(value):
            if isinstance(value, str) and self.words:
                raise unknown(where, value, self.words)
            raise UserError(f"{where} is {_shown(value)}: it takes {self.takes}")
        return self.convert(value)

    def parse(self, where: str, given: str) -> Any:
        """Reads the value from a command line's text."""
        value = literal(given)
        if self.text and not isinstance(value, str | list | tuple | dict | None):
            value = given
        return self.read(where, value)


def literal(given: str) -> Any:
    """The Python literal in a text, else the text itself."""
    try:
        return ast.literal_eval(given)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return given


def _shown(value: Any) -> str:
    """A value in an error, of which a number may have more digits than a line."""
    if isinstance(value, int) and abs(value) >= WHOLE_BELOW:
        return f"{'-' if value < 0 else ''}2**{abs(value).bit_length() - 1} or more"
    return f"{value!r:.200}"


def take(where: str, given: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """Returns the values of all `keys`: those given, checked, and the defaults of the others.

    None is not given, but for keys that are nullable.
    """
    for key in given:
        if key not in keys:
            raise unknown(where, key, keys)
    filled = {}
    for name, key in keys.items():
        value = given.get(name)
        if value is not None or (key.nullable and name in given):
            filled[name] = key.read(f"{where}.{name}", value)
        elif key.default is REQUIRED:
            raise UserError(f"{where}.{name} is missing: it takes {key.takes}")
        else:
            filled[name] = key.default
    return filled


def flag(default: bool | None, meaning: str = "") -> Key:
    """True or False."""
    return Key(default, "True or False", lambda v: isinstance(v, bool), meaning)


def whole(
    default: int | None,
    meaning: str = "",
    least: int = 0,
    also: int | None = None,
    below: int = WHOLE_BELOW,
    floats: bool = False,
) -> Key:
    """A whole number, `least` <= v < `below`, or `also`; with `floats` 3.0 is one."""
    span = f"{least} or more" if below >= 2**31 else f"{least} to {below - 1}"
    takes = f"a whole number, {span}" + ("" if also is None else f", or {also}")

    def accepts(value: Any) -> bool:
        if not is_number(value) or value != int(value):
            return False
        right = floats or isinstance(value, Integral)
        return bool(right and (value == also or least <= int(value) < below))

    return Key(default, takes, accepts, meaning, convert=int)


def number(
    default: float | None,
    meaning: str = "",
    least: float | None = 0,
    most: float = LARGEST,
    open_ends: str = "",
) -> Key:
    """A finite number, `least` <= v <= `most`; `open_ends` "<" or ">" leaves that end out."""
    low = "" if least is None else f" {'above' if '<' in open_ends else 'from'} {least:g}"
    high = f" {'below' if '>' in open_ends else 'to'} {most:g}" if most < LARGEST else ""
    takes = f"a number{low}{high or (' on' if low.startswith(' from') else '')}"

    def accepts(value: Any) -> bool:
        if not is_number(value) or ("<" in open_ends and value == least):
            return False
        inside = value <= most and not (">" in open_ends and value == most)
        return inside and (least is None or value >= least)

    convert = float if type(default) is float else as_it_is
    return Key(default, takes, accepts, meaning, convert=convert)


def share(default: float, meaning: str = "", open_ends: str = "") -> Key:
    """A number from 0 to 1."""
    return number(default, meaning, 0, 1, open_ends)


def size(default: float | None) -> Key:
    """A length in pixels, or below 1 as a share of the picture's side."""
    takes = "a number of pixels, or a share of the picture's side below 1"
    return Key(default, takes, lambda v: is_number(v) and (0 < v < 1 or (v >= 1 and v == int(v))))


def text(default: Any, meaning: str = "", takes: str = "a text") -> Key:
    """A text that isn't blank; a whole number is taken as its digits."""
    return Key(
        default,
        takes,
        lambda v: is_text(v) or (type(v) is int and abs(v) < WHOLE_BELOW),
        meaning,
        text=True,
        convert=str,
    )


def choice(default: str | None, words: str, meaning: str = "") -> Key:
    """One of the words, which stand in a text as "exact | fast"."""
    known = tuple(words.split(" | "))
    return Key(default, " | ".join(known), lambda v: v in known, meaning, known, text=True)


def table(default: Any, meaning: str = "", takes: str = "a dictionary") -> Key:
    """A dictionary or ConfigDict, whose keys are texts."""
    return Key(default, takes, is_table, meaning, table=True)


def texts(default: Any, meaning: str = "", takes: str = "a text, or a list of texts") -> Key:
    """A text or a list of texts."""
    return Key(default, takes, is_texts, meaning, text=True)


def place(default: str) -> Key:
    """Where a patch goes: a word, or its top left corner in pixels."""
    words = ("fixed", "random", "corners", "center")
    takes = "fixed, random, corners, center, or [row, col] in pixels from the top left"
    corner = whole(None, below=2**31, floats=True).accepts

    def accepts(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return len(value) == 2 and all(corner(at) for at in value)
        return value in words

    def convert(value: Any) -> Any:
        return value if isinstance(value, str) else tuple(int(at) for at in value)

    return Key(default, takes, accepts, words=words, convert=convert)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, NumPy's among them, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    if isinstance(value, Integral):
        return abs(int(value)) < WHOLE_BELOW
    return abs(float(value)) <= LARGEST


def is_text(value: Any) -> bool:
    """Whether a value is a text that isn't blank, and no longer than a path may be."""
    return isinstance(value, str) and bool(value.strip()) and fits(value, str)


def is_texts(value: Any) -> bool:
    """Whether a value is a text, or a list of them, none of them blank."""
    words = [value] if isinstance(value, str) else value
    return isinstance(words, list | tuple) and bool(words) and all(map(is_text, words))


def is_table(value: Any) -> bool:
    """Whether a value is a dictionary whose keys, and those of dictionaries in it, are texts."""
    return hasattr(value, "items") and all(
        isinstance(name, str) and (not hasattr(one, "items") or is_table(one))
        for name, one in value.items()
    )


def of_signature(function: Callable[..., Any], first: int = 0) -> dict[str, Key]:
    """The keys that a function's parameters from `first` on are, by annotations and defaults."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.items())
    return {
        name: _of_annotation(p.default, p.annotation)
        for name, p in parameters[first:]
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def _of_annotation(default: Any, annotation: Any) -> Key:
    kinds = [typing.get_origin(one) or one for one in _alternatives(annotation)]
    names = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
    words = dict.fromkeys(
        names.get(kind, "a dictionary" if _is_a(kind, Mapping) else "a list")
        for kind in kinds
        if kind not in (Path, type(None))
    )
    digits = str in kinds and not {int, float} & set(kinds)

    def convert(value: Any) -> Any:
        return str(value) if digits and type(value) is int else value

    def accepts(value: Any) -> bool:
        return fits(convert(value), annotation)

    nullable = type(None) in kinds or not all(isinstance(kind, type) for kind in kinds)
    return Key(default, " or ".join(words), accepts, nullable=nullable, convert=convert)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a config's value is of an annotated type, with all that it holds."""
    if len(alternatives := _alternatives(annotation)) > 1:
        return any(fits(value, one) for one in alternatives)
    kind, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in (Any, REQUIRED, object) or not isinstance(kind, type):
        return True
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind in (int, float):
        return is_number(value) and (kind is float or isinstance(value, Integral))
    if kind in (str, Path):
        # As long as a path may be, and UTF-8, so that it can be written down.
        return isinstance(value, str | kind) and bool(_TEXT.fullmatch(str(value)))
    if _is_a(kind, Mapping):
        inner = args[1] if args else Any
        return is_table(value) and all(fits(one, inner) for _, one in value.items())
    if _is_a(kind, Sequence):
        inner = args[0] if args else Any
        return isinstance(value, list | tuple) and all(fits(one, inner) for one in value)
    return isinstance(value, kind)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)
