"""InverTune's tuning terms (arXiv 2506.12411): triggered pictures become as clean ones inside.

The trigger and the units that it drives come from `cleanclip invert`. The original tunes on one
fixed batch; here each step has a batch of its own, and the image tower's batch statistics see the
clean pictures alone ("inverted trigger" in docs/fidelity.md).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def norm(x: jax.Array) -> Float[Array, ""]:
    """The Euclidean norm of all elements, whose gradient at 0 is 0 and not NaN."""
    squared = jnp.square(x).sum()
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
