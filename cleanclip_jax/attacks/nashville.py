"""The photo filter Nashville, as pilgram 1.2.1 and 2.0.0 compute it, pixel by pixel.

Steps upon a channel alone are tables of its 256 values, and the two mixtures of channels sum
products that are looked up: so the host and a device, which might multiply and add with one
rounding, give the same bits.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

# What sepia and saturation leave of the colours, as rows of matrices.
_SEPIA, _SATURATION = 0.8, 1.2


class Tables(NamedTuple):
    """The filter: per channel `tone`; then `sepia`; then `light`; then `saturate`."""

    tone: UInt8[np.ndarray, "3 256"]
    sepia: Float32[np.ndarray, "3 3 256"]  # products, [to, from, value]
    light: UInt8[np.ndarray, "256"]
    saturate: Float32[np.ndarray, "3 3 256"]


def _tables() -> Tables:
    x, t, s = np.arange(256), _SEPIA, _SATURATION
    dark = np.minimum(x, np.array([[247], [176], [153]]))
    tone = np.minimum(255, 143 * dark // 255 + 112 * x // 255)
    bright = np.maximum(tone, np.array([[0], [70], [150]]))
    tone = np.minimum(255, 102 * bright // 255 + 153 * tone // 255)
    contrast = np.rint(1.2 * x - 153 + 127.5).clip(0, 255)
    light = np.rint(1.05 * x).clip(0, 255)[contrast.astype(int)]
    sepia = [
        [0.393 + 0.607 * t, 0.769 - 0.769 * t, 0.189 - 0.189 * t],
        [0.349 - 0.349 * t, 0.686 + 0.314 * t, 0.168 - 0.168 * t],
        [0.272 - 0.272 * t, 0.534 - 0.534 * t, 0.131 + 0.869 * t],
    ]
    saturate = [
        [0.213 + 0.787 * s, 0.715 - 0.715 * s, 0.072 - 0.072 * s],
        [0.213 - 0.213 * s, 0.715 + 0.285 * s, 0.072 - 0.072 * s],
        [0.213 - 0.213 * s, 0.715 - 0.715 * s, 0.072 + 0.928 * s],
    ]
    products = [
        np.array(matrix, np.float32)[:, :, None] * x.astype(np.float32)
        for matrix in (sepia, saturate)
    ]
    return Tables(tone.astype(np.uint8), products[0], light.astype(np.uint8), products[1])


TABLES = _tables()


def filtered(image: Any, look_up: Any, stack: Any) -> Any:
    """The filter on uint8 [..., 3], by NumPy or by JAX.

    Args:
      look_up: of (table [256], uint8 [...]): each value's entry.
      stack: of channels: them along the last axis.
    """
    tones = [look_up(table, image[..., c]) for c, table in enumerate(TABLES.tone)]
    lit = [look_up(TABLES.light, x) for x in _mixed(TABLES.sepia, tones, look_up)]
    return stack(_mixed(TABLES.saturate, lit, look_up))


def _mixed(products: np.ndarray, channels: list[Any], look_up: Any) -> list[Any]:
    """Three channels of three: from left to right, then rounded halves up."""
    mixed = []
    for tables in products:
        r, g, b = (look_up(table, x) for table, x in zip(tables, channels, strict=True))
        mixed.append((r + g + b + np.float32(0.5)).clip(0, 255).astype(np.uint8))
    return mixed
