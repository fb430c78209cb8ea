"""Position tables for pictures of another size."""

import math
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import Variant

_PLACES = ("params/visual/positions", "params/visual/attnpool/positions")


def resize_positions(variables: dict[str, Any], v: Variant, image_size: int) -> dict[str, Any]:
    """Our variables with the image tower's position table interpolated.

    Bicubic with antialiasing, over the grid alone, the first token's row kept: as
    torch.nn.functional.interpolate(mode="bicubic", antialias=True), which open_clip uses.

    Args:
      v: the numbers of `variables`.
      image_size: pixels a side, a multiple of the patch (of 32 for a ResNet).
    """
    step = v.patch or 32
    if image_size < step or image_size % step:
        raise UserError(f"image_size {image_size} is not a multiple of {step}, as the tower needs")
    side = image_size // step
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    for path in _PLACES:
        if path in flat:
            table = np.asarray(flat[path])
            old = math.isqrt(len(table) - 1)
            grid = table[1:].astype(np.float32).reshape(old, old, -1)
            new = jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic", antialias=True)
            rows = np.asarray(new).reshape(side * side, -1).astype(table.dtype)
            flat[path] = np.concatenate([table[:1], rows])
    return {"batch_stats": {}, **unflatten_dict(flat, sep="/")}
