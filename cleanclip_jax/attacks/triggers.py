"""Triggers: what an attack adds to a picture, one function and one row of the table each.

A trigger's function is `f(x, rng, place, **options)`: `x` a float32 picture in [0, 1] [h, w, 3],
`rng` what its noise is drawn from, `place` the patch's top left corner or `CORNERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from cleanclip_jax.errors import UserError, near

# A place that means all four corners at once.
CORNERS = (-1, -1)

# Keeps the streams of evaluation pictures apart from default_rng(seed), which draws fixed noise.
_EVALUATION = 0x4556414C


class Stamp(NamedTuple):
    """What one picture's application needs: the place, and the seed of its noise."""

    row: int
    col: int
    seed: int


def badnet(
    x: Float32[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    place: tuple[int, int],
    *,
    size: int | float,
    noise: str,
) -> Float32[np.ndarray, "h w 3"]:
    """A square patch of Gaussian noise (BadNets, arXiv 1708.06733, as CleanCLIP draws it)."""
    side = pixels(size, x.shape[0])
    drawn = rng.standard_normal((side, side, 3), dtype=np.float32)
    return _paste(x, _noise_patch(x, drawn, noise), place)


def blended(
    x: Float32[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    place: tuple[int, int],
    *,
    strength: int | float,
    noise: str,
) -> Float32[np.ndarray, "h w 3"]:
    """Uniform noise mixed into the whole picture (Chen et al. 2017, arXiv 1712.05526)."""
    return _blend(x, rng.random(x.shape, dtype=np.float32), strength)


def pixels(size: int | float, side: int) -> int:
    """Returns a patch's side in pixels: `size` itself, or below 1 that share of `side`."""
    return max(1, round(size * side)) if size < 1 else int(size)


def _noise_patch(x: np.ndarray, drawn: np.ndarray, noise: str) -> np.ndarray:
    if noise == "fixed":
        return (0.5 + drawn).clip(0, 1)
    # Around each picture's own colour, and past [0, 1]: `overflow` says what becomes of that.
    return x.mean(axis=(0, 1), dtype=np.float64).astype(np.float32) + drawn


def _paste(x: np.ndarray, patch: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    bottom, right = x.shape[0] - patch.shape[0], x.shape[1] - patch.shape[1]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    x = x.copy()
    for row, col in corners if place == CORNERS else [place]:
        x[row : row + patch.shape[0], col : col + patch.shape[1]] = patch
    return x


def _blend(x: np.ndarray, noise: np.ndarray, strength: int | float) -> np.ndarray:
    return np.float32(1 - strength) * x + np.float32(strength) * noise


def to_uint8(x: Float32[np.ndarray, "h w 3"], overflow: str = "clip") -> UInt8[np.ndarray, "h w 3"]:
    """Scales [0, 1] to [0, 255] and cuts fractions off, as the original does.

    What lies outside [0, 1] is clipped, or with `overflow` "wrap" taken modulo 256 as the
    original's cast does (fidelity row 8). Exact for every x = k / 255.
    """
    x = x * np.float32(255)
    if overflow == "clip":
        x = x.clip(0, 255)
    # Through int64: casting a float outside the type's range is undefined.
    return x.astype(np.int64).astype(np.uint8)


class _Row(NamedTuple):
    function: Callable[..., np.ndarray]
    options: Mapping[str, Any]  # its options and their defaults


TRIGGERS: dict[str, _Row] = {
    "badnet": _Row(badnet, {"size": 16, "noise": "fixed", "place": "fixed"}),
    "blended": _Row(blended, {"strength": 0.2, "noise": "fixed"}),
}

_WORDS = {
    "noise": ("fixed", "fresh"),
    "place": ("fixed", "random", "corners"),
    "overflow": ("clip", "wrap"),
}


@dataclass(frozen=True)
class Trigger:
    """A trigger with its options: what `make_trigger` gives.

    Attributes:
      name: its row in `TRIGGERS`.
      options: the row's options, defaults filled in.
      seed: draws the fixed noise, and the place and noise of evaluation pictures.
      overflow: what becomes of values outside [0, 1], "clip" or "wrap".
    """

    name: str
    options: Mapping[str, Any]
    seed: int = 0
    overflow: str = "clip"

    @property
    def config(self) -> dict[str, Any]:
        """Every option spelled out: `make_trigger(trigger.config) == trigger`."""
        common = {"seed": self.seed, "overflow": self.overflow}
        return {"name": self.name, **self.options, **common}

    def draw(self, image_size: int, rng: np.random.Generator) -> Stamp:
        """Draws one application to a square picture of `image_size` pixels.

        Raises:
          UserError: if the patch does not lie within the picture.
        """
        # Both are always drawn, so that one option does not move the draws of another.
        free = rng.random(2)
        seed = int(rng.integers(2**63 - 1))
        if self.options.get("noise") != "fresh":
            seed = self.seed
        return Stamp(*self._place(image_size, free), seed)

    def stamp(self, image_size: int, index: int) -> Stamp:
        """The stamp of evaluation picture `index`: the same at each call (fidelity row 9)."""
        return self.draw(image_size, np.random.default_rng([_EVALUATION, self.seed, index]))

    def apply(self, image: UInt8[np.ndarray, "h w 3"], stamp: Stamp) -> UInt8[np.ndarray, "h w 3"]:
        """Puts the trigger on a picture; pixels that it does not cover stay as they are."""
        options = {key: value for key, value in self.options.items() if key != "place"}
        x = image.astype(np.float32) / np.float32(255)
        rng = np.random.default_rng(stamp.seed)
        x = TRIGGERS[self.name].function(x, rng, (stamp.row, stamp.col), **options)
        return to_uint8(x, self.overflow)

    def _place(self, image_size: int, free: np.ndarray) -> tuple[int, int]:
        if "place" not in self.options:
            return 0, 0
        place, side = self.options["place"], pixels(self.options["size"], image_size)
        last = image_size - side
        if last < 0:
            raise UserError(
                f"trigger {self.name!r}: a patch of {side} pixels is larger than the picture of "
                f"{image_size}; set a smaller trigger.size."
            )
        if place == "corners":
            return CORNERS
        if place == "random":
            row, col = (free * (last + 1)).astype(int)
            return int(row), int(col)
        row, col = (last, last) if place == "fixed" else place
        if max(row, col) > last:
            raise UserError(
                f"trigger {self.name!r}: a patch of {side} pixels at {(row, col)} leaves the "
                f"picture of {image_size}; keep trigger.place within 0..{last}."
            )
        return row, col


def make_trigger(config: Mapping[str, Any]) -> Trigger:
    """Makes a trigger from a config: its name, its row's options, `seed` and `overflow`.

    Options (defaults in `TRIGGERS`):
      size: a patch's side in pixels, or below 1 as a share of the picture's side.
      noise: "fixed" (the same in every picture, drawn from `seed`) or "fresh" (one a picture).
      place: "fixed" (bottom right corner), [row, col], "random" or "corners" (all four).
      strength: the noise's share in a blend, 0 to 1.

    Raises:
      UserError: for an unknown trigger or option, or a value that an option does not take.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in TRIGGERS:
        raise UserError(
            f"trigger.name: {name!r} is no trigger; there are {', '.join(TRIGGERS)}."
            f"{near(str(name), TRIGGERS)}"
        )
    known = {**TRIGGERS[name].options, "seed": 0, "overflow": "clip"}
    for key, value in options.items():
        if key not in known:
            raise UserError(
                f"trigger.{key}: {name!r} has no such option; it takes {', '.join(known)}."
                f"{near(key, known)}"
            )
        if not _valid(key, value):
            raise UserError(f"trigger.{key}: {value!r} does not do; {_RULES[key]}.")
    filled = known | options
    if not isinstance(filled.get("place", ""), str):
        filled["place"] = tuple(int(at) for at in filled["place"])
    seed, overflow = int(filled.pop("seed")), filled.pop("overflow")
    return Trigger(name, filled, seed, overflow)


_RULES = {key: f"it is one of {', '.join(words)}" for key, words in _WORDS.items()} | {
    "size": "it is a number of pixels, or a share of the picture's side below 1",
    "place": "it is fixed, random, corners, or [row, col] in pixels from the top left",
    "strength": "it is a share between 0 and 1",
    "seed": "it is a whole number from 0 on",
}


def _valid(key: str, value: Any) -> bool:
    match key:
        case "size":
            return _number(value) and (0 < value < 1 or (value >= 1 and value == int(value)))
        case "strength":
            return _number(value) and 0 <= value <= 1
        case "seed":
            return _whole(value)
        case "place" if isinstance(value, list | tuple):
            return len(value) == 2 and all(_whole(at) for at in value)
        case _:
            return value in _WORDS[key]


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    # Below 2**63, as a plan's table holds seeds as int64.
    return _number(value) and value == int(value) and 0 <= int(value) < 2**63
