"""The supervised term: a linear head on image features, and its cross-entropy with labels."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cleanclip_jax.losses.compare import normalise_rows

Head = Mapping[str, jax.Array]


def init_head(key: jax.Array, features: int, classes: int, dtype: str = "float32") -> Head:
    """A fresh head: `kernel` [features, classes] and `bias` [classes], as torch draws a Linear.

    Uniform within ±1/sqrt(features), which the paper's supervised finetuning starts from.
    """
    bound = features**-0.5
    keys = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(keys[0], (features, classes), dtype, -bound, bound),
        "bias": jax.random.uniform(keys[1], (classes,), dtype, -bound, bound),
    }


def head_logits(head: Head, features: Float[Array, "b d"], normalised: bool) -> Float[Array, "b c"]:
    """Scores of each class.

    Args:
      normalised: whether the head sees features of unit length (CLIP_benchmark's linear probe)
        or as they are (the paper's).
    """
    if normalised:
        features = normalise_rows(features)
    # In the features' precision throughout, as the contrastive logits are.
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(features, head["kernel"], precision=highest) + head["bias"][None]


def classification(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Mean cross-entropy of the labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
