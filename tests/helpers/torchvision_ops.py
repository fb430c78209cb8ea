"""torchvision's AutoAugment on Pillow pictures, op by op, to hold ours against.

What its transforms and functional_pil do with a magnitude, in Pillow's public functions: the same
matrices, from degrees and back, the same float64 factors, nearest interpolation, no fill.
"""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageEnhance, ImageOps


def _affine(image: Image.Image, tx: float, ty: float, sx: float, sy: float, middle: bool):
    """The inverse of a shear by `sx`, `sy` degrees about the middle or the corner, and a move."""
    cx, cy = (image.width * 0.5, image.height * 0.5) if middle else (0, 0)
    sx, sy = math.radians(sx), math.radians(sy)
    a, b = math.cos(-sy) / math.cos(sy), -math.cos(-sy) * math.tan(sx) / math.cos(sy)
    c, d = math.sin(-sy) / math.cos(sy), -math.sin(-sy) * math.tan(sx) / math.cos(sy) + 1.0
    e = d * (-cx - tx) + -b * (-cy - ty) + cx
    f = -c * (-cx - tx) + a * (-cy - ty) + cy
    inverse = (d, -b, e, -c, a, f)
    return image.transform(
        image.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST, fillcolor=(0, 0, 0)
    )


def _degrees(tangent: float) -> float:
    return math.degrees(math.atan(tangent))


OPS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearX": lambda x, m: _affine(x, 0, 0, _degrees(m), 0.0, middle=False),
    "ShearY": lambda x, m: _affine(x, 0, 0, 0.0, _degrees(m), middle=False),
    "TranslateX": lambda x, m: _affine(x, int(m), 0, 0.0, 0.0, middle=True),
    "TranslateY": lambda x, m: _affine(x, 0, int(m), 0.0, 0.0, middle=True),
    "Rotate": lambda x, m: x.rotate(m, Image.Resampling.NEAREST, False, None, fillcolor=(0, 0, 0)),
    "Brightness": lambda x, m: ImageEnhance.Brightness(x).enhance(1.0 + m),
    "Color": lambda x, m: ImageEnhance.Color(x).enhance(1.0 + m),
    "Contrast": lambda x, m: ImageEnhance.Contrast(x).enhance(1.0 + m),
    "Sharpness": lambda x, m: ImageEnhance.Sharpness(x).enhance(1.0 + m),
    "Posterize": lambda x, m: ImageOps.posterize(x, int(m)),
    "Solarize": lambda x, m: ImageOps.solarize(x, m),  # pyright: ignore[reportArgumentType]
    "AutoContrast": lambda x, _: ImageOps.autocontrast(x),
    "Equalize": lambda x, _: ImageOps.equalize(x),
    "Invert": lambda x, _: ImageOps.invert(x),
}


def torchvision_view(image: Image.Image, steps: Sequence[tuple[str, float]]) -> Image.Image:
    """Ops one after another, each with its signed magnitude: torchvision's float32 as a float."""
    for op, magnitude in steps:
        image = OPS[op](image, magnitude)
    return image
