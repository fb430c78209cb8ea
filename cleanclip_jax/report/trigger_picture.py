"""A trigger that was inverted, as a picture."""

import io

import numpy as np
from jaxtyping import Float
from PIL import Image

LEAST_SIDE = 96  # of one picture, in pixels
Pixels = Float[np.ndarray, "s s _"]


def trigger_picture(
    mask: Pixels,
    pattern: Pixels,
    clean: Float[np.ndarray, "n s s 3"],
    triggered: Float[np.ndarray, "n s s 3"],
) -> bytes:
    """A PNG of three rows: mask, mask times pattern, pattern; pictures; those with the trigger.

    All of it from 0 to 1; what lies beyond is cut.
    """
    mask = np.broadcast_to(mask, pattern.shape)
    rows = [[mask, mask * pattern, pattern], [*clean], [*triggered]]
    side, width = len(mask), max(map(len, rows))
    blank = np.ones((side, side, 3), np.float32)
    lines = [np.concatenate([*row, *[blank] * (width - len(row))], 1) for row in rows]
    pixels = (np.concatenate(lines).clip(0, 1) * 255).round().astype(np.uint8)
    sheet, larger = Image.fromarray(pixels), -(-LEAST_SIDE // side)
    stream = io.BytesIO()
    size = (sheet.width * larger, sheet.height * larger)
    sheet.resize(size, Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()
