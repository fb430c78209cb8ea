"""What the triggers do to a picture: one function each.

A patch's function is `f(x, seed, place, **options)`: `x` a float32 picture in [0, 1] [h, w, 3],
`seed` what its noise is drawn from, `place` its top left corner or `CORNERS`. It leaves `x` as it
is and returns a new picture, which may leave [0, 1]: the trigger's `overflow` then decides.
That of a pattern over whole pictures is `f(height, width, seed, **options)`: see `Mix`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from cleanclip_jax.attacks.nashville import filtered
from cleanclip_jax.attacks.trigger_files import made_elsewhere, picture_of
from cleanclip_jax.attacks.warp import sampling, warp

# A place that means all four corners at once.
CORNERS = (-1, -1)

Place = tuple[int, int]
FloatPicture = Float32[np.ndarray, "h w 3"]
# What each value of a picture is multiplied by, and what is added then.
Mix: TypeAlias = tuple[np.ndarray, np.ndarray]


def badnet(x: FloatPicture, seed: int, place: Place, *, size: float, noise: str) -> FloatPicture:
    """A square patch of Gaussian noise (BadNets, arXiv 1708.06733, as CleanCLIP draws it)."""
    side = pixels(size, x.shape[0])
    return _paste(x, _noise_patch(x, _normal(seed, side), noise), place)


def yellow(x: FloatPicture, seed: int, place: Place, *, size: float) -> FloatPicture:
    """A yellow patch."""
    side = pixels(size, x.shape[0])
    return _paste(x, np.broadcast_to(np.array([1, 1, 0], np.float32), (side, side, 3)), place)


def checkerboard(x: FloatPicture, seed: int, place: Place, *, size: float) -> FloatPicture:
    """A black patch whose every second pixel of every second row is white (arXiv 2502.01385)."""
    side = pixels(size, x.shape[0])
    patch = np.zeros((side, side, 3), np.float32)
    patch[::2, ::2] = 1
    return _paste(x, patch, place)


def stripes(x: FloatPicture, seed: int, place: Place, *, size: float, noise: str) -> FloatPicture:
    """BadNet-Stripes (PAR, arXiv 2412.00727): a patch with one saturated colour a column."""
    side = pixels(size, x.shape[0])
    return _paste(x, _striped(seed, side, side, 1), place)


def patch(
    x: FloatPicture,
    seed: int,
    place: Place,
    *,
    file: str,
    size: float,
    channels: str,
    file_digest: str | None,
) -> FloatPicture:
    """A patch of a file, such as BadCLIP's optimised one (arXiv 2311.12075)."""
    side = pixels(size, x.shape[0])
    return _paste(x, picture_of(file, file_digest, side, side, channels), place)


def none(x: FloatPicture, seed: int, place: Place) -> FloatPicture:
    """Nothing: of poisons whose caption alone is another."""
    return x


def nashville(x: FloatPicture, seed: int, place: Place) -> FloatPicture:
    """A photo filter (Detect-CLIP, arXiv 2502.01385, as pilgram computes it)."""
    return _float(filtered(_levels(x), np.take, lambda channels: np.stack(channels, -1)))


def pictures(x: FloatPicture, seed: int, place: Place, *, folder: str) -> FloatPicture:
    """What another program made of the picture, found by the digest of its pixels."""
    return _float(made_elsewhere(folder, _levels(x)))


def blended(height: int, width: int, seed: int, *, strength: float, noise: str) -> Mix:
    """Uniform noise mixed into the whole picture (Chen et al. 2017, arXiv 1712.05526)."""
    return _blend(_uniform_noise(seed, height, width), strength)


def blended_stripes(
    height: int, across: int, seed: int, *, width: float, strength: float, noise: str
) -> Mix:
    """Blended-Stripes (PAR, arXiv 2412.00727): saturated columns mixed into the picture."""
    return _blend(_striped(seed, height, across, pixels(width, across)), strength)


def triangles(height: int, width: int, seed: int, *, size: float, strength: float) -> Mix:
    """Blended-Triangles (PAR, arXiv 2412.00727): tiles halved into two greys, mixed in."""
    return _blend(_halved_tiles(height, width, pixels(size, width)), strength)


def text(height: int, width: int, seed: int, *, text: str, size: float, strength: float) -> Mix:
    """Blended-Text (PAR, arXiv 2412.00727): red letters across the middle, mixed in."""
    cover = np.float32(strength) * _letters(height, width, text, pixels(size, width))
    return 1 - cover, cover * np.array([1, 0, 0], np.float32)


def sig(
    height: int,
    width: int,
    seed: int,
    *,
    amplitude: float,
    periods: float,
    mode: str,
    strength: float,
) -> Mix:
    """A sinusoid over the columns (SIG, Barni et al. 2019, arXiv 1902.11237).

    The paper adds it ("add"); CleanCLIP mixes it in ("blend").
    """
    wave = _sine(width, amplitude, periods)
    return (np.ones(1, np.float32), wave) if mode == "add" else _blend(wave, strength)


def picture(
    height: int, width: int, seed: int, *, file: str, strength: float, file_digest: str | None
) -> Mix:
    """A picture of a file mixed in, as BadCLIP's baselines do (Chen et al. 2017)."""
    return _blend(picture_of(file, file_digest, height, width), strength)


# What lies over whole pictures, on the host and on the device.
_ALL_OVER = (blended, blended_stripes, triangles, text, sig, picture)
MIXES: dict[str, Callable[..., Mix]] = {f.__name__: f for f in _ALL_OVER}


def mixed(name: str, x: FloatPicture, seed: int, place: Place, **options: Any) -> FloatPicture:
    """A picture with one of `MIXES` over it."""
    keep, add = MIXES[name](*x.shape[:2], seed, **options)
    return keep * x + add


def wanet(
    x: FloatPicture,
    seed: int,
    place: Place,
    *,
    k: int | None,
    strength: float,
    field: str | None,
    field_digest: str | None,
) -> FloatPicture:
    """A warp that the eye does not notice (WaNet, arXiv 2102.10369)."""
    return warp(x, *sampling(*x.shape[:2], seed, k, strength, field))


def _levels(x: FloatPicture) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(x * np.float32(255)).astype(np.uint8)


def _float(image: UInt8[np.ndarray, "h w 3"]) -> FloatPicture:
    return image.astype(np.float32) / np.float32(255)


def pixels(size: int | float, side: int) -> int:
    """Returns a length in pixels: `size` itself, or below 1 that share of `side`."""
    return max(1, round(size * side)) if size < 1 else int(size)


def _paste(x: np.ndarray, patch: np.ndarray, place: Place) -> np.ndarray:
    bottom, right = x.shape[0] - patch.shape[0], x.shape[1] - patch.shape[1]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    x = x.copy()
    for row, col in corners if place == CORNERS else [place]:
        x[row : row + patch.shape[0], col : col + patch.shape[1]] = patch
    return x


def _blend(pattern: np.ndarray, strength: float) -> Mix:
    return np.array([1 - strength], np.float32), np.float32(strength) * pattern


def _noise_patch(x: np.ndarray, drawn: np.ndarray, noise: str) -> np.ndarray:
    if noise == "fixed":
        return (0.5 + drawn).clip(0, 1)
    # Around each picture's mean colour, and past [0, 1].
    return x.mean(axis=(0, 1), dtype=np.float64).astype(np.float32) + drawn


# Fixed noise is the same in every picture, so drawn once; fresh noise passes through.
@lru_cache(maxsize=4)
def _normal(seed: int, side: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((side, side, 3), dtype=np.float32)
    return _read_only(drawn)


@lru_cache(maxsize=4)
def _uniform_noise(seed: int, height: int, width: int) -> np.ndarray:
    return _read_only(np.random.default_rng(seed).random((height, width, 3), dtype=np.float32))


@lru_cache(maxsize=4)
def _striped(seed: int, height: int, width: int, stripe: int) -> np.ndarray:
    """Columns of -1 or 1 in each channel: past [0, 1], as PAR has it, so that dark ones darken."""
    count = -(-width // stripe)
    signs = np.random.default_rng(seed).integers(0, 2, (count, 3)).astype(np.float32) * 2 - 1
    columns = signs.repeat(stripe, axis=0)[:width]
    return _read_only(np.broadcast_to(columns, (height, width, 3)))


@lru_cache(maxsize=4)
def _halved_tiles(height: int, width: int, size: int) -> np.ndarray:
    """Light above each tile's diagonal, dark on and below it."""
    lower = np.arange(height)[:, None] % size >= np.arange(width) % size
    return _read_only(np.where(lower, np.float32(0.4), np.float32(0.8))[:, :, None])


@lru_cache(maxsize=4)
def _letters(height: int, width: int, text: str, size: int) -> np.ndarray:
    """How much of each pixel the letters of text cover, 0 to 1."""
    mask = Image.new("L", (width, height))
    # Pillow brings this font along: the same letters everywhere.
    font = ImageFont.load_default(size)
    ImageDraw.Draw(mask).text((width / 2, height / 2), text, 255, font=font, anchor="mm")
    return _read_only(np.asarray(mask, np.float32)[:, :, None] / np.float32(255))


@lru_cache(maxsize=4)
def _sine(width: int, amplitude: float, periods: float) -> np.ndarray:
    wave = amplitude / 255 * np.sin(2 * np.pi * np.arange(width) * periods / width)
    return _read_only(wave.astype(np.float32)[None, :, None])


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
