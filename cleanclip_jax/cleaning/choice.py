"""Which cleaned model is delivered, if any: no canary is left, and it is the most useful."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Canary(NamedTuple):
    """What is left of one: its ASR and its interval's upper end.

    Attributes:
      floor: what comes of itself: its ASR before it was planted, or how often the cleaned model
        takes clean pictures of other classes for the target, whichever is more.
      limit: that the upper end may reach.
    """

    asr: float
    upper: float
    floor: float
    limit: float


class Point(NamedTuple):
    """A model cleaned by one method at one rate.

    Attributes:
      usefulness: CA, or where no labels were given the recall of held-out pairs.
      figures: all that was measured.
    """

    method: str
    rate: float
    workdir: str
    usefulness: float
    figures: Mapping[str, Any]
    canaries: Mapping[str, Canary]


class Failure(NamedTuple):
    """A rate at which there is no model, and why."""

    method: str
    rate: float
    why: str


def passes(point: Point) -> bool:
    """Whether every canary's ASR is low enough, with its interval."""
    return all(canary.upper <= canary.limit for canary in point.canaries.values())


def choose(points: Iterable[Point]) -> Point | None:
    """The most useful of the points that pass, of equal ones the first; None if none does."""
    return max(filter(passes, points), key=lambda point: point.usefulness, default=None)


def nearest(points: Iterable[Point]) -> Point | None:
    """Where none passes: the point whose worst canary is the least above its limit."""

    def left(point: Point) -> float:
        return max(canary.upper - canary.limit for canary in point.canaries.values())

    return min(points, key=left, default=None)
