"""An architecture as a dictionary of numbers: read, checked, and spelled."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import of_signature, take
from cleanclip_jax.models.variants import Variant

_WORDS = {"vision_pool": ("token", "mean", "mean_norm"), "text_pool": ("end", "first", "last")}
_LEAST = {"patch": 0, "vision_hidden": 0, "text_hidden": 0, "text_end": -1}
_MOST = 1 << 24  # of any number; the largest vocabularies have a million ids


def read_variant(where: str, given: Mapping[str, Any] | Any) -> Variant:
    """The architecture of a `Variant`'s numbers; `where` begins the message of what is wrong."""
    plain = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
    return validate(where, Variant(**take(where, plain, of_signature(Variant))))


def validate(where: str, v: Variant) -> Variant:
    """Refuses numbers that no architecture has; `where` begins the message."""
    for name, value in vars(v).items():
        if isinstance(value, str):
            fits = value in _WORDS[name]
        elif isinstance(value, float):
            fits = 0 < value < 1
        elif isinstance(value, bool):
            fits = True
        else:
            numbers, least = value if isinstance(value, tuple) else [value], _LEAST.get(name, 1)
            fits = all(isinstance(x, int) and least <= x < _MOST for x in numbers)
        if not fits:
            raise UserError(f"{where}: {name} is {value!r}, which no architecture has")
    width = v.vision_width * (1 if v.patch else 32)
    for name, total, part in (
        ("text_width", v.text_width, v.text_heads),
        ("the width of the image tower's attention", width, v.vision_head_width),
        ("image_size", v.image_size, v.patch or 32),
    ):
        if total % part:
            raise UserError(f"{where}: {name} {total} does not divide by {part}")
    return v


def spelled(v: Variant) -> dict[str, Any]:
    """What `read_variant` takes for these numbers, ready for JSON; defaults are left out."""
    values = {x.name: getattr(v, x.name) for x in fields(v) if getattr(v, x.name) != x.default}
    return {name: list(x) if isinstance(x, tuple) else x for name, x in values.items()}
