"""How a batch's embeddings meet: InfoNCE of queries against all keys of the batch.

A term names queries and keys, or gives rows of its own; whether the keys are gathered into one
matrix, here, or travel in a ring (losses.ring) is not its business.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from cleanclip_jax.sharding import copied_over

# A name of `units`, or unit embeddings [b, d] of a term's own.
Rows: TypeAlias = str | jax.Array
# (queries, keys): the mean InfoNCE over the batch, a scalar; row i of the keys answers query i.
# With a third, bool [b], it is that of these pairs alone, and 0 where there is none.
Compare: TypeAlias = Callable[..., jax.Array]
# The embeddings of a batch of pairs, in the order in which they are gathered.
PAIRS = ("image", "image_view", "text", "text_view")
# What stands in place of a logit that is left out: its exponential is 0 beside any other, and the
# difference of two is no NaN, as it would be of infinities, and not much but 0.
LEFT_OUT = -1e4


def normalise_rows(features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales each row to unit length."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def rows_of(units: Mapping[str, jax.Array], rows: Rows) -> Float[Array, "b d"]:
    """The rows that a name stands for, or the rows themselves."""
    return units[rows] if isinstance(rows, str) else rows


def info_nce(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    scale: Float[Array, ""],
    log_sum_exp: Float[Array, " b"],
    among: Bool[Array, " b"] | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy of `scale * queries @ all_keys.T` with row i's own key as the answer.

    Args:
      log_sum_exp: of each row of these logits.
      among: the rows that count; None: all.
    """
    losses = log_sum_exp - scale * (queries * keys).sum(-1)
    if among is None:
        return losses.mean()
    return jnp.where(among, losses, 0.0).sum() / jnp.maximum(among.sum(), 1)


def gathered(
    units: Mapping[str, jax.Array],
    scale: Float[Array, ""],
    mesh: Mesh | None = None,
    pairs: Float[Array, "b n d"] | None = None,
) -> Compare:
    """Compares with a matrix of logits.

    Args:
      units: unit embeddings by name, each [b, d], which may be split over the mesh by rows. Each
        device keeps its rows as queries and sees everyone's as keys, with exact gradients
        ("gathered gradients" in docs/fidelity.md).
      pairs: those of `PAIRS` among the units, in this order, where they lie in one array already.
    """

    def everywhere(rows: jax.Array) -> jax.Array:
        if mesh is None:
            return rows
        return jax.lax.with_sharding_constraint(rows, copied_over(mesh))

    @cache
    def keys_of_all() -> dict[str, jax.Array]:
        # One gather of all embeddings of the pairs, here and nowhere else.
        names = [name for name in PAIRS if name in units]
        together = jnp.stack([units[name] for name in names], 1) if pairs is None else pairs
        together = everywhere(together)
        return {name: together[:, i] for i, name in enumerate(names)}

    def compare(queries: Rows, keys: Rows, among: Bool[Array, " b"] | None = None) -> jax.Array:
        q, k = rows_of(units, queries), rows_of(units, keys)
        all_keys = keys_of_all()[keys] if isinstance(keys, str) and keys in PAIRS else everywhere(k)
        # A GPU would take TF32 and a TPU bfloat16 passes: at scale 100 no longer the loss.
        logits = scale * jnp.matmul(q, all_keys.T, precision=jax.lax.Precision.HIGHEST)
        if among is not None:
            logits = jnp.where(everywhere(among)[None], logits, LEFT_OUT)
        return info_nce(q, k, scale, jax.nn.logsumexp(logits, axis=-1), among)

    return compare
