"""What a trigger's option takes: a default, a check, and the rule in words for who breaks it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Option:
    """One option of a trigger.

    Attributes:
      default: what it is where nothing is given.
      rule: what it takes, in words that end a sentence.
      takes: whether a value keeps to the rule.
    """

    default: Any
    rule: str
    takes: Callable[[Any], bool]


def size(default: int | float) -> Option:
    """A length in pixels, or below 1 as a share of the picture's side."""
    rule = "it is a number of pixels, or a share of the picture's side below 1"
    return Option(default, rule, lambda v: is_number(v) and (0 < v < 1 or (v >= 1 and v == int(v))))


def share(default: float) -> Option:
    """A number from 0 to 1."""
    return Option(default, "it is a share between 0 and 1", lambda v: is_number(v) and 0 <= v <= 1)


def number(default: float) -> Option:
    """A finite number from 0 on."""
    rule = "it is a number from 0 on"
    return Option(default, rule, lambda v: is_number(v) and 0 <= v < float("inf"))


def whole(default: int | None, least: int, below: int) -> Option:
    """A whole number, `least` <= v < `below`; None too where it is the default."""
    rule = f"it is a whole number, {least} or more"
    return Option(
        default, rule, lambda v: (v is None and default is None) or is_whole(v, least, below)
    )


def word(*words: str) -> Option:
    """One of the words; the first is the default."""
    return Option(words[0], f"it is one of {', '.join(words)}", lambda v: v in words)


def text(default: str | None) -> Option:
    """Words that are not empty; None too where it is the default."""
    rule = "it is a text"
    return Option(
        default, rule, lambda v: (v is None and default is None) or (isinstance(v, str) and bool(v))
    )


def place(default: str) -> Option:
    """Where a patch goes: a word, or its top left corner in pixels."""
    rule = "it is fixed, random, corners, or [row, col] in pixels from the top left"
    words = ("fixed", "random", "corners")

    def takes(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return len(value) == 2 and all(is_whole(at, 0, 2**31) for at in value)
        return value in words

    return Option(default, rule, takes)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_whole(value: Any, least: int, below: int) -> bool:
    return (
        is_number(value) and np.isfinite(value) and value == int(value) and least <= value < below
    )
