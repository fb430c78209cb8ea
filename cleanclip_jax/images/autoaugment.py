"""AutoAugment with the policy found on ImageNet (Cubuk et al. 2019, arXiv 1805.09501).

Pixel-exact with torchvision's, which the original uses: nearest interpolation, black fill.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps


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


def _affine(x: Image.Image, inverse: tuple) -> Image.Image:
    return x.transform(x.size, Image.Transform.AFFINE, inverse)


_OPS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearX": lambda x, m: _affine(x, (1, m, 0, 0, 1, 0)),
    "ShearY": lambda x, m: _affine(x, (1, 0, 0, m, 1, 0)),
    "TranslateX": lambda x, m: _affine(x, (1, 0, -int(m), 0, 1, 0)),
    "TranslateY": lambda x, m: _affine(x, (1, 0, 0, 0, 1, -int(m))),
    "Rotate": lambda x, m: x.rotate(m),
    "Brightness": lambda x, m: ImageEnhance.Brightness(x).enhance(1 + m),
    "Color": lambda x, m: ImageEnhance.Color(x).enhance(1 + m),
    "Contrast": lambda x, m: ImageEnhance.Contrast(x).enhance(1 + m),
    "Sharpness": lambda x, m: ImageEnhance.Sharpness(x).enhance(1 + m),
    "Posterize": lambda x, m: ImageOps.posterize(x, int(m)),
    "Solarize": lambda x, m: ImageOps.solarize(x, m),  # pyright: ignore[reportArgumentType]
    "AutoContrast": lambda x, m: ImageOps.autocontrast(x),
    "Equalize": lambda x, m: ImageOps.equalize(x),
    "Invert": lambda x, m: ImageOps.invert(x),
}

_TOP = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
_TOP |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9)
_TRANSLATE = 150 / 331  # of the side: the paper's pixels at its image size

# The ops that go either way, each by a fair coin.
SIGNED = frozenset({*_TOP, "TranslateX", "TranslateY"})


def magnitude(op: str, level: int, height: int, width: int) -> float:
    """Returns the size of `op` at level 0 to 9, unsigned, in the op's own unit.

    Shear: tangent; translation: pixels; rotation: degrees; colour ops: distance of the factor
    from 1; posterize: bits kept; solarize: threshold. 0 for ops that have none.
    """
    match op:
        case "TranslateX":
            return _TRANSLATE * width * level / 9
        case "TranslateY":
            return _TRANSLATE * height * level / 9
        case "Posterize":
            return float(8 - round(level * 4 / 9))
        case "Solarize":
            return 255 * (9 - level) / 9
        case _:
            return _TOP.get(op, 0.0) * level / 9


def apply_op(
    image: UInt8[np.ndarray, "h w 3"], op: str, magnitude: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Applies one op at a signed magnitude, in the unit that `magnitude()` gives."""
    return np.array(_OPS[op](Image.fromarray(image), magnitude))


def autoaugment(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Applies one of the 25 sub-policies, drawn from `rng`."""
    steps = POLICY[rng.integers(len(POLICY))]
    height, width = image.shape[:2]
    for step, draw, positive in zip(steps, rng.random(2), rng.integers(2, size=2), strict=True):
        if draw < step.chance:
            size = magnitude(step.op, step.level, height, width)
            sign = -1 if step.op in SIGNED and not positive else 1
            image = apply_op(image, step.op, math.copysign(size, sign))
    return image
