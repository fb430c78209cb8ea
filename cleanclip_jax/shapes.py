"""JSON as data: bounded, and of the shape that its reader relies on, or a line why not."""

import json
from typing import Any, get_args

from cleanclip_jax.errors import UserError, reason

ANY: dict[Any, Any] = {}  # the shape of any JSON object
MOST_DEPTH = 64  # containers within each other


def parse_json(where: str, data: str | bytes, shape: Any, todo: str = "") -> Any:
    """JSON as data, once it has the shape that its reader relies on; a UserError otherwise.

    Args:
      where: what it is: a path, a path with a line.
      shape: a type or a union of types (`float` takes whole numbers too; `object` is anything); a
        set of values; a tuple of shapes, of which one is to fit; a list of one shape, for all its
        items, or of as many as there are to be; a dictionary of shapes by key, of which one that
        ends with ? may be absent, and `str` stands for all others. Keys that it doesn't name are
        let by.
      todo: ends the message.
    """
    value = None
    try:
        value = load_json(data)
        problem = _mismatch(value, shape)
    except ValueError as error:
        problem = reason(error)
    if problem is not None:
        raise UserError(
            f"{where}{'' if problem.startswith('is ') else ':'} {problem}{todo and f': {todo}'}"
        )
    return value


def load_json(data: str | bytes) -> Any:
    """JSON's value; raises ValueError for what is none, or nests too deep."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"is not readable as JSON: {reason(error)}") from None
    if _too_deep(value):
        raise ValueError("is nested too deep")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_DEPTH):
        parts = [
            x.values() if isinstance(x, dict) else x for x in level if isinstance(x, dict | list)
        ]
        level = [x for part in parts for x in part]
    return bool(level)


_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
_KINDS |= {int: "a whole number", float: "a number", type(None): "null"}


def _kind_of(shape: Any) -> type:
    """The type of a value that fits: a container's by its shape, that of the members of a set."""
    if isinstance(shape, set):
        return type(min(shape))
    return type(shape) if isinstance(shape, dict | list | None) else shape


def _mismatch(value: Any, shape: Any, at: str = "") -> str | None:
    """What is not as a shape says, in words; None where all is."""
    lacking = []
    match shape, value:
        case dict(), dict():
            shapes = {key if key is str else key.rstrip("?"): each for key, each in shape.items()}
            pairs = [
                (f"{at}.{key}" if at else key, x, shapes.get(key, shapes.get(str, object)))
                for key, x in value.items()
            ]
            lacking = [
                key for key in shapes if key in shape and key is not str and key not in value
            ]
        case list(), list():
            shapes = shape if len(shape) > 1 else shape * len(value)
            if len(value) != len(shapes):
                return f"{at or 'it'} holds {len(value)} items, not {len(shapes)}"
            pairs = [(f"{at or 'it'}[{i}]", x, shapes[i]) for i, x in enumerate(value)]
        case set(), str() | int():
            known = ", ".join(map(repr, sorted(shape)))
            return None if value in shape else f"{at or 'it'} is {value!r:.80}, not {known}"
        case tuple(), _:
            problems = [_mismatch(value, each, at) for each in shape]
            return None if None in problems else problems[0]
        case _:
            kind, kinds = type(value), [_kind_of(x) for x in get_args(shape) or [shape]]
            if not (object in kinds or kind in kinds or (kind is int and float in kinds)):
                return (
                    f"{at or 'it'} is {_KINDS[kind]}, not {' or '.join(_KINDS[x] for x in kinds)}"
                )
            return f"{at or 'it'} is too large" if kind is int and abs(value) >= 1 << 63 else None
    problem = next(filter(None, (_mismatch(x, each, name) for name, x, each in pairs)), None)
    return problem or next((f"{at or 'it'} lacks {key!r}" for key in lacking), None)
