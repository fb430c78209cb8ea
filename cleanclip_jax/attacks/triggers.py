"""Triggers: what an attack adds to a picture, one row of the table each.

A new one is a function in attacks.patterns and a row of `TRIGGERS`; yours is registered
(docs/extend.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from cleanclip_jax import keys
from cleanclip_jax.attacks import patterns
from cleanclip_jax.attacks.patterns import CORNERS, pixels
from cleanclip_jax.attacks.trigger_files import Reader, read_patch, read_pattern, same_file
from cleanclip_jax.attacks.warp import read_field
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import Key
from cleanclip_jax.registry import Registry

# Keeps the streams of evaluation pictures apart from default_rng(seed), which draws fixed noise.
_EVALUATION = 0x4556414C


class Stamp(NamedTuple):
    """What one picture's application needs: the place, and the seed of its noise."""

    row: int
    col: int
    seed: int


def fold(stamp: Stamp | None, part: int = 0) -> Int32[np.ndarray, "4"]:
    """A stamp as the device takes it: (part + 1, row, col, seed); zeros where there is none.

    The seed, of up to 63 bits, is folded into 31: there it draws fresh noise and nothing else.
    """
    if stamp is None:
        return np.zeros(4, np.int32)
    row, col, seed = stamp
    seed ^= seed >> 31 ^ seed >> 62
    return np.array([part + 1, row, col, seed & 0x7FFFFFFF], np.int32)


class Row(NamedTuple):
    """A trigger: its function, its options, and which of these name files.

    An option that names a file has another, OPTION_digest, which a manifest holds.
    """

    function: Callable[..., np.ndarray]
    options: Mapping[str, Key]
    files: Mapping[str, Reader] = MappingProxyType({})


_NOISE = keys.choice("fixed", "fixed | fresh")
_PATCH = {"size": keys.size(16), "place": keys.place("fixed")}
_NOISY = {"size": _PATCH["size"], "noise": _NOISE, "place": _PATCH["place"]}

_FILE = {"file": keys.text(keys.REQUIRED), "file_digest": keys.text(None)}

_MIXED = {
    "blended": {"strength": keys.share(0.2), "noise": _NOISE},
    "blended_stripes": {"width": keys.size(1), "strength": keys.share(0.03), "noise": _NOISE},
    "triangles": {"size": keys.size(14), "strength": keys.share(0.15)},
    "text": {
        "text": keys.text("Watermarked"),
        "size": keys.size(0.125),
        "strength": keys.share(0.5),
    },
    "sig": {
        "amplitude": keys.number(60),
        "periods": keys.number(6),
        "mode": keys.choice("blend", "blend | add"),
        "strength": keys.share(0.2),
    },
}
_PICTURE = {**_FILE, "strength": keys.share(0.2)}
_FILE_PATCH = {
    **_FILE,
    "size": keys.size(None),
    "place": keys.place("center"),
    "channels": keys.choice("rgb", "rgb | bgr"),
}
_WARP = {
    "k": keys.whole(None, least=1, below=4096, floats=True),
    "strength": keys.number(1.0),
    "field": keys.text(None),
    "field_digest": keys.text(None),
}
TRIGGERS: Registry[Row] = Registry(
    "config.attack.trigger.name",
    {
        "badnet": Row(patterns.badnet, _NOISY),
        "yellow": Row(patterns.yellow, _PATCH),
        "checkerboard": Row(patterns.checkerboard, _PATCH),
        "stripes": Row(patterns.stripes, _NOISY),
        **{name: Row(partial(patterns.mixed, name), keys) for name, keys in _MIXED.items()},
        "picture": Row(partial(patterns.mixed, "picture"), _PICTURE, {"file": read_pattern}),
        "patch": Row(patterns.patch, _FILE_PATCH, {"file": read_patch}),
        "wanet": Row(patterns.wanet, _WARP, {"field": read_field}),
        "nashville": Row(patterns.nashville, {}),
        "none": Row(patterns.none, {}),
        "pictures": Row(patterns.pictures, {"folder": keys.text(keys.REQUIRED)}),
    },
)

_COMMON = {
    # Below 2**63, as a plan's table holds seeds as int64.
    "seed": keys.whole(0, below=2**63, floats=True),
    "overflow": keys.choice("clip", "clip | wrap"),
}


def trigger(name: str, **options: Key) -> Callable[[Callable], Callable]:
    """Decorates f(x, seed, place, **options), as in attacks.patterns: it is the trigger `name`.

    Args:
      options: its options, as `cleanclip_jax.keys` declares them. With `size` and `place` it is a
        patch, which has a place; with `noise` "fresh" `seed` is another for each picture.
    """

    def decorate(function: Callable) -> Callable:
        TRIGGERS.add(name, Row(function, options))
        return function

    return decorate


def to_uint8(x: Float32[np.ndarray, "h w 3"], overflow: str = "clip") -> UInt8[np.ndarray, "h w 3"]:
    """Scales [0, 1] to [0, 255] and cuts fractions off, as the original does.

    What lies outside [0, 1] is clipped, or with `overflow` "wrap" taken modulo 256 as the
    original's cast does (docs/fidelity.md: fixed noise). Exact for every x = k / 255.
    """
    x = x * np.float32(255)
    if overflow == "clip":
        return x.clip(0, 255).astype(np.uint8)
    # Through int64: casting a float outside the type's range is undefined.
    return x.astype(np.int64).astype(np.uint8)


@dataclass(frozen=True)
class Trigger:
    """A trigger with its options: what `make_trigger` gives.

    Attributes:
      name: its row in `TRIGGERS`.
      options: the row's options, defaults filled in.
      seed: draws the fixed noise, and the place and noise of evaluation pictures.
      overflow: what becomes of values outside [0, 1], "clip", or of a patch "wrap".
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
        """Draws one application to a square picture of `image_size` pixels."""
        # Both are always drawn, so that one option does not move the draws of another.
        free = rng.random(2)
        seed = int(rng.integers(2**63 - 1))
        if self.options.get("noise") != "fresh":
            seed = self.seed
        return Stamp(*self._place(image_size, free), seed)

    def stamp(self, image_size: int, index: int) -> Stamp:
        """The stamp of evaluation picture `index`: the same at each call."""
        return self.draw(image_size, np.random.default_rng([_EVALUATION, self.seed, index]))

    def apply(self, image: UInt8[np.ndarray, "h w 3"], stamp: Stamp) -> UInt8[np.ndarray, "h w 3"]:
        """Puts the trigger on a picture; pixels that it does not cover stay as they are."""
        given = {key: value for key, value in self.options.items() if key != "place"}
        x = image.astype(np.float32) / np.float32(255)
        x = TRIGGERS[self.name].function(x, stamp.seed, (stamp.row, stamp.col), **given)
        return to_uint8(x, self.overflow)

    def fits(self, image_size: int, stamps: Int64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which of the stamps, as they come out of a file, can be applied to such a picture."""
        place, seed = stamps[:, :2], stamps[:, 2]
        last = 0
        if "place" in self.options:
            last = image_size - pixels(self.options["size"], image_size)
        corners = (place == np.array(CORNERS)).all(1) & ("place" in self.options)
        return (((place >= 0) & (place <= last)).all(1) | corners) & (last >= 0) & (seed >= 0)

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
        if place == "center":
            middle = int(image_size // 2 - side / 2)
            return middle, middle
        row, col = (last, last) if place == "fixed" else place
        if max(row, col) > last:
            raise UserError(
                f"trigger {self.name!r}: a patch of {side} pixels at {(row, col)} leaves the "
                f"picture of {image_size}; keep trigger.place within 0..{last}."
            )
        return row, col


def make_trigger(config: Mapping[str, Any]) -> Trigger:
    """Makes a trigger from a config: its name, its row's options, `seed` and `overflow`.

    docs/attacks.md lists the options by trigger, with their meaning and defaults.
    """
    given = dict(config)
    name = given.pop("name", None)
    row = TRIGGERS.find(name)
    filled = keys.take("config.attack.trigger", given, {**row.options, **_COMMON})
    if filled.get("k") is not None and filled.get("field") is not None:
        raise UserError(
            "config.attack.trigger.k: a file of a field has its k: set either k or field, not both."
        )
    for option, read in row.files.items():
        if filled[option] is not None:
            filled[f"{option}_digest"] = same_file(option, filled, read)
    if "size" in filled and filled["size"] is None:  # as large as its file
        filled["size"] = len(read_patch(filled["file"])[0])
    seed, overflow = filled.pop("seed"), filled.pop("overflow")
    if overflow == "wrap" and "place" not in row.options:
        raise UserError(
            f"config.attack.trigger.overflow: wrap is for patches, as in the original, which clips "
            f"pictures that a pattern like {name}'s lies over: leave it at clip."
        )
    return Trigger(str(name), filled, seed, overflow)
