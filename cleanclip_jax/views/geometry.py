"""Images to squares of one size: exactly as the original does, or fast."""

from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Its threads would only get in the way of the workers, of which there is one a core.
cv2.setNumThreads(0)

Pixels = UInt8[np.ndarray, "h w 3"]
Picture: TypeAlias = Image.Image | Pixels


def resize_crop(picture: Picture, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes the short side to `size` (Pillow bicubic, antialiased) and cuts out the centre.

    Pixel-exact with torchvision's Resize and CenterCrop, CLIP's preprocessing.
    """
    image = _image(picture)
    width, height, left, top = _placed(*image.size, size)
    if width > height:
        # Of wide pictures Pillow resizes rows first, then columns (of tall ones that depends on its
        # version): columns that the cut leaves out are left out in between.
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
        image = image.crop((left, 0, left + size, image.height))
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image.crop((left, top, left + size, top + size)))


def squash(picture: Picture, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes both sides to `size` (Pillow bicubic) whatever the shape was.

    The original does this to the images it poisons alone (docs/fidelity.md: trigger after crop).
    """
    return np.array(_image(picture).resize((size, size), Image.Resampling.BICUBIC))


def fast_resize_crop(picture: Pixels, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """`resize_crop` by OpenCV, in a tenth of the time; the pixels differ a little."""
    width, height, left, top = _placed(picture.shape[1], picture.shape[0], size)
    resized = _resize(picture, width, height)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


def fast_squash(picture: Pixels, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """`squash` by OpenCV."""
    return _resize(picture, size, size)


# By name: crop, or squash as the original does to what it poisons.
GEOMETRY = {"crop": resize_crop, "squash": squash}
FAST_GEOMETRY = {"crop": fast_resize_crop, "squash": fast_squash}


def _image(picture: Picture) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _placed(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Returns width and height with the short side at `size`, and the square's left and top."""
    short = min(width, height)
    # Integers as torchvision's: the long side is rounded down.
    width, height = size * width // short, size * height // short
    # round() is to even, and torchvision's crop depends on it.
    return width, height, round((width - size) / 2), round((height - size) / 2)


def _resize(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    # Bilinear takes in every pixel of what shrinks to no less than a half.
    shrinks = min(picture.shape[0] / height, picture.shape[1] / width)
    how = cv2.INTER_AREA if shrinks >= 2 else cv2.INTER_LINEAR if shrinks >= 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=how)
