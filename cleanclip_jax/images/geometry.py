"""Images to squares of one size."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes the short side to `size` (Pillow bicubic, antialiased) and cuts out the centre.

    Pixel-exact with torchvision's Resize and CenterCrop, CLIP's preprocessing.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    # Integers as torchvision's: the long side is rounded down.
    height, width = size * height // short, size * width // short
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    # round() is to even, and torchvision's crop depends on it.
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def squash(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes both sides to `size` (Pillow bicubic) whatever the shape was.

    The original does this to the images it poisons and to no others (fidelity row 7).
    """
    picture = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(picture)
