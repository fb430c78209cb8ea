"""The contrastive terms: unit embeddings in, scalar out.

The pairs' embeddings come twice: as `own`, which may be sharded over devices by rows, and as
`everyone`, the same rows gathered, so that the one all-gather stands in the step and not here.
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


def normalise_rows(features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales each row to unit length."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def info_nce(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    all_keys: Float[Array, "b d"],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Mean cross-entropy of `scale * queries @ all_keys.T` with row i's own key as the answer."""
    # A GPU would take TF32 and a TPU bfloat16 passes, which at scale 100 is no longer the loss.
    highest = jax.lax.Precision.HIGHEST
    logits = scale * jnp.matmul(queries, all_keys.T, precision=highest)
    answers = scale * (queries * keys).sum(-1)
    return (jax.nn.logsumexp(logits, axis=-1) - answers).mean()


def cross_modal(own: Embeddings, everyone: Embeddings, scale: Float[Array, ""]) -> jax.Array:
    """Images against texts, both ways (CLIP, arXiv 2103.00020; MMCL in arXiv 2303.03323)."""
    images_to_texts = info_nce(own.image, own.text, everyone.text, scale)
    texts_to_images = info_nce(own.text, own.image, everyone.image, scale)
    return (images_to_texts + texts_to_images) / 2


def in_modal(own: Embeddings, everyone: Embeddings, scale: Float[Array, ""]) -> jax.Array:
    """Originals against augmented views inside each modality, one way (CleanCLIP's SS term)."""
    assert own.image_view is not None and own.text_view is not None
    assert everyone.image_view is not None and everyone.text_view is not None
    images = info_nce(own.image, own.image_view, everyone.image_view, scale)
    texts = info_nce(own.text, own.text_view, everyone.text_view, scale)
    return (images + texts) / 2


Term = Callable[[Embeddings, Embeddings, jax.Array], jax.Array]
TERMS: dict[str, Term] = {"cross_modal": cross_modal, "in_modal": in_modal}
NEEDS_VIEWS = frozenset({"in_modal"})
