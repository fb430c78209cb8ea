"""The loss of each pair, symmetric InfoNCE, against negatives that are the same for all."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int64

from cleanclip_jax.measure.ranks import in_blocks, unit
from cleanclip_jax.sharding import copied_over

BLOCK = 2048


def pair_losses(
    images: Float32[np.ndarray, "b d"],
    texts: Float32[np.ndarray, "b d"],
    index: Int64[np.ndarray, " b"],
    negatives: tuple[Float32[np.ndarray, "m d"], Float32[np.ndarray, "m d"]],
    negatives_index: Int64[np.ndarray, " m"],
    scale: float,
    mesh: Mesh,
) -> Float32[np.ndarray, " b"]:
    """Each pair's loss beside the negative pairs, of which itself, by its index, is none.

    Args:
      negatives: their images and texts.
      scale: that cosines are multiplied by.
    """
    others = {"images": unit(negatives[0]), "texts": unit(negatives[1]), "index": negatives_index}
    placed = jax.device_put({**others, "scale": np.float32(scale)}, copied_over(mesh))
    rows = {"images": unit(images), "texts": unit(texts), "index": index}
    return in_blocks(partial(_losses, others=placed), rows, mesh, BLOCK)


@jax.jit
def _losses(rows: dict[str, jax.Array], others: dict[str, jax.Array]) -> Float[Array, " b"]:
    itself = rows["index"][:, None] == others["index"][None]
    scale = others["scale"]
    answers = scale * (rows["images"] * rows["texts"]).sum(-1)

    def loss(queries: jax.Array, keys: jax.Array) -> jax.Array:
        logits = scale * jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST)
        logits = jnp.where(itself, -jnp.inf, logits)
        return jnp.logaddexp(jax.nn.logsumexp(logits, axis=-1), answers) - answers

    there, back = loss(rows["images"], others["texts"]), loss(rows["texts"], others["images"])
    return (there + back) / 2
