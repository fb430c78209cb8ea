"""AutoAugment with the policy for ImageNet (Cubuk et al. 2019, arXiv 1805.09501).

Pixel-exact with torchvision's, which the original uses: nearest interpolation, black fill.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance


class Step(NamedTuple):
    """An op, the chance that it is applied, and its level 0 to 9 (0 where the op has none)."""

    op: str
    chance: float
    level: int = 0


# The paper's table 9. Some rows occur twice; they are drawn twice as often.
POLICY: tuple[tuple[Step, Step], ...] = (
    (Step("Posterize", 0.4, 8), Step("Rotate", 0.6, 9)),
    (Step("Solarize", 0.6, 5), Step("AutoContrast", 0.6)),
    (Step("Equalize", 0.8), Step("Equalize", 0.6)),
    (Step("Posterize", 0.6, 7), Step("Posterize", 0.6, 6)),
    (Step("Equalize", 0.4), Step("Solarize", 0.2, 4)),
    (Step("Equalize", 0.4), Step("Rotate", 0.8, 8)),
    (Step("Solarize", 0.6, 3), Step("Equalize", 0.6)),
    (Step("Posterize", 0.8, 5), Step("Equalize", 1.0)),
    (Step("Rotate", 0.2, 3), Step("Solarize", 0.6, 8)),
    (Step("Equalize", 0.6), Step("Posterize", 0.4, 6)),
    (Step("Rotate", 0.8, 8), Step("Color", 0.4, 0)),
    (Step("Rotate", 0.4, 9), Step("Equalize", 0.6)),
    (Step("Equalize", 0.0), Step("Equalize", 0.8)),
    (Step("Invert", 0.6), Step("Equalize", 1.0)),
    (Step("Color", 0.6, 4), Step("Contrast", 1.0, 8)),
    (Step("Rotate", 0.8, 8), Step("Color", 1.0, 2)),
    (Step("Color", 0.8, 8), Step("Solarize", 0.8, 7)),
    (Step("Sharpness", 0.4, 7), Step("Invert", 0.6)),
    (Step("ShearX", 0.6, 5), Step("Equalize", 1.0)),
    (Step("Color", 0.4, 0), Step("Equalize", 0.6)),
    (Step("Equalize", 0.4), Step("Solarize", 0.2, 4)),
    (Step("Solarize", 0.6, 5), Step("AutoContrast", 0.6)),
    (Step("Invert", 0.6), Step("Equalize", 1.0)),
    (Step("Color", 0.6, 4), Step("Contrast", 1.0, 8)),
    (Step("Equalize", 0.8), Step("Equalize", 0.6)),
)


MOVES = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})
BLENDS = frozenset({"Brightness", "Color", "Contrast", "Sharpness"})
# These look each value up in a table [256], or in one [3, 256] that is made of the histogram
# [3, 256]. As Pillow's ImageOps, to the bit, in less time.
FIXED = frozenset({"Posterize", "Solarize", "Invert"})
_VALUES = np.tile(np.arange(256), (3, 1))


def inverse(op: str, size: float, height: int, width: int) -> tuple[float, ...]:
    """Where a pixel comes from: (a, b, c, d, e, f), x' = a x + b y + c and y' = d x + e y + f."""
    match op:
        case "ShearX":
            return 1, size, 0, 0, 1, 0
        case "ShearY":
            return 1, 0, 0, size, 1, 0
        case "TranslateX":
            return 1, 0, -int(size), 0, 1, 0
        case "TranslateY":
            return 1, 0, 0, 0, 1, -int(size)
        case "Rotate":
            # About the middle, with Pillow's rounding, on which the last bit depends.
            angle = -math.radians(size % 360)
            cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
            x, y = -(width / 2), -(height / 2)
            return cos, sin, cos * x + sin * y - x, -sin, cos, -sin * x + cos * y - y
        case _:
            return 1, 0, 0, 0, 1, 0


def value_table(op: str, size: float) -> np.ndarray:
    """What each value becomes by an op of `FIXED`, [256]; by another it stays."""
    values = np.arange(256)
    match op:
        case "Posterize":
            return values & (-1 << 8 - int(size))
        case "Solarize":
            return np.where(size > values, values, 255 - values)
        case "Invert":
            return 255 - values
        case _:
            return values


def _autocontrast(histogram: np.ndarray) -> np.ndarray:
    low, high = np.argmax(histogram > 0, 1), 255 - np.argmax(histogram[:, ::-1] > 0, 1)
    flat = low == high
    scale = (255.0 / np.where(flat, 1, high - low))[:, None]
    stretched = (_VALUES * scale - low[:, None] * scale).astype(np.int64).clip(0, 255)
    return np.where(flat[:, None], _VALUES, stretched)


def _equalize(histogram: np.ndarray) -> np.ndarray:
    last = 255 - np.argmax(histogram[:, ::-1] > 0, 1)
    step = ((histogram.sum(1) - histogram[range(3), last]) // 255)[:, None]
    below = np.cumsum(histogram, 1) - histogram
    even = ((step // 2 + below) // np.maximum(step, 1)).clip(0, 255)
    # Of one value, or with few pixels of any other: it stays as it is.
    return np.where(step, even, _VALUES)


_COUNTED = {"AutoContrast": _autocontrast, "Equalize": _equalize}

# Of each op at level 0 and 9; of a translation a share of the side: the paper's pixels at its size.
_ENDS = {"ShearX": (0.0, 0.3), "ShearY": (0.0, 0.3), "Rotate": (0.0, 30.0)}
_ENDS |= {"TranslateX": (0.0, 150 / 331), "TranslateY": (0.0, 150 / 331)}
_ENDS |= dict.fromkeys(BLENDS, (0.0, 0.9))

# The ops that go either way, each by a fair coin.
SIGNED = frozenset(_ENDS)
_ENDS |= {"Solarize": (255.0, 0.0)}


def magnitude(op: str, level: int, height: int, width: int) -> float:
    """Returns the size of `op` at level 0 to 9, unsigned, in the op's unit.

    Shear: tangent; translation: pixels; rotation: degrees; colour ops: distance of the factor
    from 1; posterize: bits that stay; solarize: threshold. 0 for ops that have none.

    As torchvision's, rounded to float32 where torch's linspace does: 0.79999995 is not 0.8, and a
    pixel of Color then now and then is another.
    """
    if op == "Posterize":
        return float(8 - round(level * 4 / 9))
    first, last = _ENDS.get(op, (0.0, 0.0))
    side = {"TranslateX": width, "TranslateY": height}.get(op, 1)
    first, last = (float(np.float32(end)) for end in (first, last * side))
    step = float(np.float32(last - first) / np.float32(9))
    # From the nearer end, the product and the sum rounded once, together.
    return float(np.float32(first + step * level if level < 5 else last - step * (9 - level)))


def apply_ops(image: Image.Image, ops: Sequence[tuple[str, float]]) -> Image.Image:
    """Applies ops, each with its signed magnitude in the unit of `magnitude()`, to an RGB image.

    Returns:
      another image; without ops `image` itself.
    """
    for op, size in ops:
        if op in MOVES:
            where = inverse(op, size, image.height, image.width)
            image = image.transform(image.size, Image.Transform.AFFINE, where)
        elif op in BLENDS:
            image = getattr(ImageEnhance, op)(image).enhance(1 + size)
        elif op in FIXED:
            image = image.point(value_table(op, size).tolist() * 3)
        else:
            histogram = np.array(image.histogram()).reshape(3, 256)
            image = image.point(_COUNTED[op](histogram).ravel().tolist())
    return image


def autoaugment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Applies one of the 25 sub-policies, drawn from `rng`, to an RGB image.

    Returns:
      another image, or `image` itself where the draw leaves it as it is.
    """
    steps, ops = POLICY[rng.integers(len(POLICY))], []
    for step, draw, positive in zip(steps, rng.random(2), rng.integers(2, size=2), strict=True):
        if draw < step.chance:
            size = magnitude(step.op, step.level, image.height, image.width)
            ops.append((step.op, -size if step.op in SIGNED and not positive else size))
    return apply_ops(image, ops)
