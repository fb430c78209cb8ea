"""The contrastive terms, as the papers write them: sums of InfoNCE over kinds of embeddings.

How a kind's queries meet all keys of the batch is not theirs to know: a term is given a `Compare`,
which `gathered` makes here of embeddings that were gathered before, and `ring.ringed` of
embeddings that stay where they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Embeddings(NamedTuple):
    """Unit embeddings of a batch of pairs, each [b, d]; views are None where there are none."""

    image: jax.Array
    text: jax.Array
    image_view: jax.Array | None = None
    text_view: jax.Array | None = None


# (queries, keys), names of `Embeddings`: their InfoNCE over the batch, a scalar.
Compare = Callable[[str, str], jax.Array]


def cross_modal(info_nce: Compare) -> jax.Array:
    """Images against texts, both ways (CLIP, arXiv 2103.00020; MMCL in arXiv 2303.03323)."""
    return (info_nce("image", "text") + info_nce("text", "image")) / 2


def in_modal(info_nce: Compare) -> jax.Array:
    """Originals against augmented views inside each modality, one way (CleanCLIP's SS term)."""
    return (info_nce("image", "image_view") + info_nce("text", "text_view")) / 2


Term = Callable[[Compare], jax.Array]
TERMS: dict[str, Term] = {"cross_modal": cross_modal, "in_modal": in_modal}
NEEDS_VIEWS = frozenset({"in_modal"})


def normalise_rows(features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales each row to unit length."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def info_nce(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    scale: Float[Array, ""],
    log_sum_exp: Float[Array, " b"],
) -> Float[Array, ""]:
    """Mean cross-entropy of `scale * queries @ all_keys.T` with row i's own key as the answer.

    Args:
      log_sum_exp: of each row of these logits.
    """
    answers = scale * (queries * keys).sum(-1)
    return (log_sum_exp - answers).mean()


def gathered(own: Embeddings, everyone: Embeddings, scale: Float[Array, ""]) -> Compare:
    """Compares with a matrix of logits.

    Args:
      own: the pairs' embeddings, which may be sharded over devices by rows: the queries.
      everyone: the same rows gathered, the keys, so that the one all-gather stands in the step.
    """

    def compare(queries: str, keys: str) -> jax.Array:
        q, k, all_keys = getattr(own, queries), getattr(own, keys), getattr(everyone, keys)
        # A GPU would take TF32 and a TPU bfloat16 passes: at scale 100 no longer the loss.
        logits = scale * jnp.matmul(q, all_keys.T, precision=jax.lax.Precision.HIGHEST)
        return info_nce(q, k, scale, jax.nn.logsumexp(logits, axis=-1))

    return compare
