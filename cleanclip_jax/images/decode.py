"""Image bytes to RGB pixels."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cleanclip_jax.errors import UserError


class BadRecord(UserError):
    """A record that cannot be read; the message names the place it came from."""


def decode(data: bytes, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB.

    Transparency is dropped, 16-bit grey is scaled to 8 bits, EXIF orientation is ignored
    (as in the original, which also decodes with Pillow).

    Args:
      data: an image file in any format that Pillow reads.
      where: the record's place, named in errors: "pairs.csv row 17".

    Raises:
      BadRecord: if the bytes are not a whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _rgb(image)
    # Pillow's plugins raise anything from SyntaxError to struct.error on broken files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"{len(data)} bytes in no image format that Pillow reads"
        raise BadRecord(f"{where}: unreadable image ({reason}); replace or remove it.") from error


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        # Pillow clips these at 255, which turns most 16-bit pictures white.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
