"""The gradient cache: the towers see the batch in parts, the loss sees it whole.

Parts are encoded one after another, and on the way back once more, so that the activations of one
part are in memory at a time. The loss is over all embeddings and its gradient exact: to split the
batch is not to train on smaller ones (GradCache, arXiv 2101.06983).
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.sharding import split_over


def model_of_a_part(model: CLIP, chunks: int, devices: int, frozen: bool = False) -> CLIP:
    """Returns the model for one part of the batch, which sees that share of batch norm's groups.

    Args:
      devices: a part has rows of each.
      frozen: whether the image tower runs in evaluation mode, without batch statistics.
    """
    has_norms = isinstance(model.variant.vision_layers, tuple)
    if not has_norms or model.compute.bn_frozen or frozen:
        return model
    if model.compute.bn_groups % (devices * chunks):
        raise UserError(
            f"config.train.chunks {chunks} on {devices} devices needs config.model.bn_groups to "
            f"be a multiple of {devices * chunks}, not {model.compute.bn_groups}, for batch norm "
            "sees one part at a time: set it so, or config.model.bn_frozen=True, or "
            "config.train.chunks=1"
        )
    return model.computed(bn_groups=model.compute.bn_groups // chunks)


def encode_in_chunks(
    encode: Callable[..., tuple[Any, Any]], rows: Any, chunks: int, mesh: Mesh | None
) -> tuple[Any, Any]:
    """Runs `encode` on parts of the batch and puts its outputs together.

    Args:
      encode: a function of `rows` that returns (outputs, statistics): trees of arrays, of which
        outputs have a row for each of the rows given.
      rows: a tree of arrays [b, ...], split over all devices of the mesh.

    Returns:
      what `encode(rows)` returns; of the statistics the parts' mean.
    """
    devices = 1 if mesh is None else mesh.devices.size

    def place(x: jax.Array, axis: int) -> jax.Array:
        return x if mesh is None else jax.lax.with_sharding_constraint(x, split_over(mesh, axis))

    def apart(x: jax.Array) -> jax.Array:
        # A part takes rows of every device, so that none has to travel: [chunks, b / chunks, ...].
        x = place(x.reshape(devices, chunks, -1, *x.shape[1:]), 0).swapaxes(0, 1)
        return place(x.reshape(chunks, -1, *x.shape[3:]), 1)

    def together(x: jax.Array) -> jax.Array:
        x = place(x.reshape(chunks, devices, -1, *x.shape[2:]), 1).swapaxes(0, 1)
        return place(x.reshape(-1, *x.shape[3:]), 0)

    # Inside a loop nothing can be merged with its recomputation: no barriers are needed.
    again = jax.checkpoint(encode, prevent_cse=False)
    _, (outputs, statistics) = jax.lax.scan(
        lambda carry, part: (carry, again(part)), None, jax.tree.map(apart, rows)
    )
    return jax.tree.map(together, outputs), jax.tree.map(lambda x: x.mean(0), statistics)
