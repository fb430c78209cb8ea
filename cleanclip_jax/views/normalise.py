"""From uint8 pixels to what the encoders were trained on."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# CLIP's published statistics of its training pictures, for channels R, G, B in [0, 1].
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def normalise(
    images: UInt8[Array, "*b s s 3"] | Float[Array, "*b s s 3"], dtype: str = "float32"
) -> Float[Array, "*b s s 3"]:
    """Returns (images / 255 - mean) / std, computed in float32 or better, as `dtype`.

    Args:
      images: 0 to 255.
    """
    compute = jnp.promote_types(dtype, jnp.float32)
    return standardise(images.astype(compute) / 255, dtype)


def standardise(x: Float[Array, "*b s s 3"], dtype: str = "float32") -> Float[Array, "*b s s 3"]:
    """Returns (x - mean) / std of pictures in [0, 1], as `dtype`."""
    mean, std = (jnp.broadcast_to(y.astype(x.dtype), x.shape) for y in (MEAN, STD))
    return ((x - mean) / std).astype(dtype)
