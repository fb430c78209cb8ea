"""The strong view of contrastive pretraining: crop, flip, colours, grey, blur.

torchvision's transforms on Pillow pictures, as RoCLIP's and SafeCLIP's code composes them: flip,
RandomResizedCrop, ColorJitter(0.5, 0.5, 0.5, 0.1) with a chance of 0.8, grey with one of 0.2, and
always GaussianBlur(21). Pixel-exact but for the blur, whose roundings may differ by one.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

LEAST = 0.08  # share of the picture's area
RATIOS = (3 / 4, 4 / 3)  # width to height
TRIES = 10
JITTER = {"Brightness": 0.5, "Contrast": 0.5, "Color": 0.5, "Hue": 0.1}
JITTERED, GREY = 0.8, 0.2  # chances
KERNEL, SIGMAS = 21, (0.1, 2.0)  # pixels


@dataclass(frozen=True)
class Draw:
    """What is drawn of a strong view.

    Attributes:
      box: (left, top, width, height) in the picture after its flip.
      colours: (op of `JITTER`, its factor) in the order in which they are applied; a hue's factor
        is a shift in turns.
      sigma: of the blur.
    """

    flip: bool
    box: tuple[int, int, int, int]
    colours: tuple[tuple[str, float], ...]
    grey: bool
    sigma: float


def draw(rng: np.random.Generator, width: int, height: int, least: float = LEAST) -> Draw:
    """Draws a strong view of a picture of that size."""
    flip, box = bool(rng.random() < 0.5), draw_box(rng, width, height, least)
    colours: tuple[tuple[str, float], ...] = ()
    if rng.random() < JITTERED:
        factors = {}
        for op, reach in JITTER.items():
            factors[op] = (op != "Hue") + float(rng.uniform(-reach, reach))
        colours = tuple((op, factors[op]) for op in rng.permutation(list(JITTER)).tolist())
    return Draw(flip, box, colours, bool(rng.random() < GREY), float(rng.uniform(*SIGMAS)))


def draw_box(
    rng: np.random.Generator, width: int, height: int, least: float
) -> tuple[int, int, int, int]:
    """A box whose share of the area is `least` to 1 and whose shape is in `RATIOS`."""
    for _ in range(TRIES):
        area = width * height * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    # None fits into a picture that long: the middle, as far as a ratio goes.
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def apply(image: Image.Image, drawn: Draw, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The view of an RGB picture that was drawn."""
    left, top, width, height = drawn.box
    if drawn.flip:  # the same pixels cut out first, and fewer to turn
        left = image.width - left - width
    image = image.crop((left, top, left + width, top + height))
    if drawn.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    for op, factor in drawn.colours:
        turned = op == "Hue"
        image = (
            shift_hue(image, factor) if turned else getattr(ImageEnhance, op)(image).enhance(factor)
        )
    if drawn.grey:
        image = image.convert("L").convert("RGB")
    pixels = np.asarray(image, np.float32)
    kernel = (KERNEL, KERNEL)
    blurred = cv2.GaussianBlur(pixels, kernel, drawn.sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.rint(blurred).astype(np.uint8)


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turns the hue by a part of a turn, in Pillow's 256 steps, towards 0."""
    hue, *others = image.convert("HSV").split()
    shifted = hue.point([(value + int(turns * 255)) % 256 for value in range(256)])
    return Image.merge("HSV", (shifted, *others)).convert("RGB")


def strong(
    image: Image.Image, size: int, rng: np.random.Generator, least: float = LEAST
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """A strong view, drawn from `rng`, of an RGB picture."""
    return apply(image, draw(rng, image.width, image.height, least), size)
