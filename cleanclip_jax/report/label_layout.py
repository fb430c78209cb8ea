"""Where labels go in a figure so that they cover little: plain geometry, in pixels."""

import itertools
import math
from collections.abc import Sequence

Spot = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top


def around(spot: Spot, width: float, height: float) -> Box:
    """The box of that size with `spot` in its middle."""
    x, y = spot
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def boxes_along(spots: Sequence[Spot], size: float) -> list[Box]:
    """What a line with a mark of `size` at each spot covers; the line counts half as wide."""
    covered = [around(spot, size, size) for spot in spots]
    for (x0, y0), (x1, y1) in itertools.pairwise(spots):
        steps = 1 + int(2 * math.hypot(x1 - x0, y1 - y0) / size)
        for t in (step / steps for step in range(steps)):
            covered.append(around((x0 + t * (x1 - x0), y0 + t * (y1 - y0)), size / 2, size / 2))
    return covered


def place(
    spot: Spot, width: float, height: float, gap: float, taken: Sequence[Box], inside: Box
) -> Spot:
    """The middle of a label of that size, `gap` from `spot`, where it covers least of `taken`
    and sticks out of `inside` least; of twelve directions, the first best from the right."""

    def cost(middle: Spot) -> float:
        label = around(middle, width, height)
        return sum(overlap(label, other) for other in taken) - overlap(label, inside)

    x, y = spot
    angles = (math.radians(angle) for angle in range(0, 360, 30))
    middles = [
        (x + math.cos(angle) * (gap + width / 2), y + math.sin(angle) * (gap + height / 2))
        for angle in angles
    ]
    return min(middles, key=cost)
