"""WaNet's warp (Nguyen and Tran 2021, arXiv 2102.10369): a field of shifts, and its sampling.

Each step does in float32 what torch does with `interpolate(mode="bicubic", align_corners=True)`
and `grid_sample(align_corners=True)`.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from cleanclip_jax.attacks.trigger_files import digest
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_bytes

# The cubic kernel's free number, as torch has it.
_A = np.float32(-0.75)
_MOST_SHIFTS = 4096  # a side
_MOST_HEADER = 1 << 16  # bytes of a .npy file beside its array


def draw_field(seed: int, k: int) -> Float32[np.ndarray, "k k 2"]:
    """Draws a field of k x k shifts (right, down), uniform, with a mean size of 1."""
    drawn = np.random.default_rng(seed).random((k, k, 2), dtype=np.float32) * 2 - 1
    return drawn / np.abs(drawn).mean()


def read_field(path: str) -> tuple[Float32[np.ndarray, "k k2 2"], str]:
    """Reads a field [k, k, 2] or [1, k, k, 2] from a .npy file; returns it and its digest."""
    file = os.path.expanduser(path)
    try:
        # A pipe is never read, nor a header's word taken for a size that the file hasn't.
        odd = os.path.exists(file) and not os.path.isfile(file)
        field = None if odd else np.load(file, mmap_mode="r")
    except OSError as error:
        raise UserError(f"trigger.field: {path}: {error.strerror}; check the path.") from error
    except (ValueError, EOFError, SyntaxError):
        field = None
    if not isinstance(field, np.ndarray):
        raise UserError(f"trigger.field: {path} is no .npy file; check the path.")
    shape = field.shape[1:] if field.ndim == 4 and len(field) == 1 else field.shape
    sound = len(shape) == 3 and shape[2] == 2 and 0 < min(shape) <= max(shape) <= _MOST_SHIFTS
    if not sound or field.dtype.kind != "f" or not np.isfinite(field).all():
        raise UserError(
            f"trigger.field: {path} holds an array {list(field.shape)} of {field.dtype}; it takes "
            f"finite floats [k, k, 2], k up to {_MOST_SHIFTS}."
        )
    data = read_bytes(Path(file), field.nbytes + _MOST_HEADER)
    return field.reshape(shape).astype(np.float32), digest(data)


@lru_cache(maxsize=4)
def sampling(
    height: int, width: int, seed: int, k: int | None, strength: float, field: str | None
) -> tuple[Int[np.ndarray, "4 p"], Float64[np.ndarray, "4 p 1"]]:
    """Where each warped pixel comes from: four pixels' numbers and weights, row by row.

    Args:
      seed: draws the field.
      k: shifts a side; None: one a pixel.
      strength: WaNet's s: the mean shift in pixels, times two.
      field: a file of shifts in place of drawn ones.
    """
    shifts = draw_field(seed, height if k is None else k) if field is None else read_field(field)[0]
    shifts = upsample(shifts, height, width) * np.float32(strength) / np.float32(height)
    x = (_line(width) + shifts[:, :, 0]).clip(-1, 1)
    y = (_line(height)[:, None] + shifts[:, :, 1]).clip(-1, 1)
    x = ((x + 1) * np.float32((width - 1) / 2)).reshape(-1)
    y = ((y + 1) * np.float32((height - 1) / 2)).reshape(-1)
    left, top = np.floor(x), np.floor(y)
    east, south = x - left, y - top
    west, north = 1 - east, 1 - south
    # A neighbour beyond the last row or column has weight 0: any number does for it.
    columns = [left.astype(np.intp), np.minimum(left + 1, width - 1).astype(np.intp)]
    rows = [top.astype(np.intp), np.minimum(top + 1, height - 1).astype(np.intp)]
    index = np.stack([row * width + column for row in rows for column in columns])
    weight = np.stack([v * h for v in (north, south) for h in (west, east)]).astype(np.float64)[
        :, :, None
    ]
    index.setflags(write=False)
    weight.setflags(write=False)
    return index, weight


def warp(
    x: Float32[np.ndarray, "h w c"],
    index: Int[np.ndarray, "4 p"],
    weight: Float64[np.ndarray, "4 p 1"],
) -> Float32[np.ndarray, "h w c"]:
    """Mixes each pixel of its four sources, top left to bottom right.

    Multiplies and adds with one rounding, as torch's kernel does: with two, one value in 300
    comes out a grey level lower where fractions are cut off.
    """
    pixels = x.reshape(-1, x.shape[2]).astype(np.float64)
    mixed = np.float32(0)
    for at, share in zip(index, weight, strict=True):
        part = pixels.take(at, axis=0)
        part *= share
        part += mixed
        mixed = part.astype(np.float32)
    return np.asarray(mixed).reshape(x.shape)


def upsample(
    field: Float[np.ndarray, "k k2 c"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} c"]:
    """Resizes by cubic convolution, corners on corners (also to fewer points: no smoothing)."""
    across = _weights(field.shape[1], width)
    down = _weights(field.shape[0], height)
    field = np.sum([field[:, at] * weight[:, None] for at, weight in across], axis=0)
    return np.sum([field[at] * weight[:, None, None] for at, weight in down], axis=0)


def _weights(size: int, wanted: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The four neighbours of each wanted point and their weights; the border is repeated."""
    scale = np.float32((size - 1) / (wanted - 1)) if wanted > 1 else np.float32(0)
    place = np.arange(wanted, dtype=np.float32) * scale
    first = np.floor(place)
    t = place - first

    def inner(d: np.ndarray) -> np.ndarray:
        return ((_A + 2) * d - (_A + 3)) * d * d + 1

    def outer(d: np.ndarray) -> np.ndarray:
        return ((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A

    weights = outer(t + 1), inner(t), inner(1 - t), outer(2 - t)
    at = first.astype(np.intp)
    return [
        ((at + step).clip(0, size - 1), weight)
        for step, weight in zip((-1, 0, 1, 2), weights, strict=True)
    ]


def _line(size: int) -> Float32[np.ndarray, " {size}"]:
    """From -1 to 1, computed from both ends and rounded once as torch's linspace is."""
    step = float(np.float32(2 / max(1, size - 1)))
    at = np.arange(size)
    return np.where(at < size // 2, -1 + step * at, 1 - step * (size - 1 - at)).astype(np.float32)
