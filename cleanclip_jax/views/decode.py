"""Image bytes to RGB pixels."""

import io
import warnings

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from cleanclip_jax.errors import UserError

# Where Pillow begins to warn of a decompression bomb: a few hundred MB as pixels.
MAX_PIXELS = 89_478_485
# A line of 1 x 60,000 pixels has few, until its short side is brought to 224.
MAX_RATIO = 500

# What Pillow warns of is either refused here or of no matter for the pixels (broken EXIF data).
warnings.filterwarnings("ignore", module=r"PIL\.")
# Memory for a few pictures is reused: allocating it again, page by page, takes longer than most of
# what AutoAugment does.
Image.core.set_blocks_max(4)  # pyright: ignore[reportAttributeAccessIssue]


class BadRecord(UserError):
    """A record that cannot be read; the message names the place it came from."""


def decode(
    image: bytes | UInt8[np.ndarray, "h w 3"], where: str, enough: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB.

    As Pillow does, pixel for pixel: transparency is dropped, of an animation the first frame is
    taken, and EXIF orientation and colour profiles are ignored (as in the original). 16-bit grey
    is scaled to 8 bits; Pillow, and the original, clip it, which turns most such pictures white.

    Args:
      image: an image file in any format that Pillow reads but EPS, or a decoded picture, which
        comes back as it is.
      where: the record's place, named in errors: "pairs.csv row 17".
      enough: the short side, in pixels, that is enough: a larger JPEG may come reduced by its
        cosine transform to a half or less, never below this. None: pictures come whole.

    Raises:
      BadRecord: if the bytes are not a whole image, or one of over MAX_PIXELS pixels or whose
        sides differ by more than MAX_RATIO times.
    """
    try:
        if isinstance(image, np.ndarray):
            _check_shape(image.shape[1], image.shape[0])
            return image
        pixels = _jpeg(image, enough)
        return _by_pillow(image) if pixels is None else pixels
    # Pillow's plugins raise anything from SyntaxError to struct.error on broken files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"{len(image)} bytes in no image format that Pillow reads"
        raise BadRecord(f"{where}: unreadable image ({reason}); replace or remove it.") from error


def _jpeg(data: bytes, enough: int | None) -> np.ndarray | None:
    """The pixels of a sound JPEG in one of the usual colour spaces; None: ask Pillow.

    simplejpeg writes into NumPy's memory, by the same library and with the same settings as
    Pillow, which takes half as long again and then has to be copied out of.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_shape(int(width), int(height))
    if space not in ("YCbCr", "RGB", "Gray"):
        return None
    # Scales between a half and the whole, 5/8 to 7/8, take longer than the whole, and what
    # comes out is no better than the whole resized.
    least, factor = (0, 1.0) if enough is None else (enough, 2.0)
    try:
        return simplejpeg.decode_jpeg(data, min_height=least, min_width=least, min_factor=factor)
    except ValueError:
        # Pillow forgives some damage, and the original decodes with it.
        return None


def _by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        _check_shape(*image.size)
        if image.format == "EPS":
            raise ValueError("EPS is a program, which would be run")
        if image.mode.startswith("I"):
            grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "P" and "transparency" in image.info:
            return np.array(image.convert("RGBA").convert("RGB"))
        image.load()
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _check_shape(width: int, height: int) -> None:
    size = f"{width} x {height} pixels"
    if not width or not height:
        raise ValueError(f"{size}: it is empty")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{size}: it may be a decompression bomb, and {MAX_PIXELS} are read")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{size}: it is more than {MAX_RATIO} times as long as wide")
