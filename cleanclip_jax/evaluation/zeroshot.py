"""Zero-shot classification: class names as prompts, pictures ranked against them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from cleanclip_jax.data.pipeline import EvaluationBatch
from cleanclip_jax.device.normalise import normalise
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP, encode_image, encode_text
from cleanclip_jax.objectives.contrastive import normalise_rows
from cleanclip_jax.sharding import place_batch
from cleanclip_jax.text.prompts import fill
from cleanclip_jax.text.tokenizer import Tokenizer

Variables = Mapping[str, Any]


def text_classifier(
    model: CLIP,
    variables: Variables,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    batch_size: int = 256,
) -> Float[np.ndarray, "c d"]:
    """Returns a unit embedding for each class name.

    Each template is filled and embedded, normalised, averaged over the templates and
    normalised again, as in CLIP (arXiv 2103.00020).
    """
    encode = jax.jit(lambda tokens: normalise_rows(encode_text(model, variables, tokens)))
    prompts = [fill(template, name) for name in names for template in templates]
    rows = []
    for start in range(0, len(prompts), batch_size):
        tokens = tokenizer(prompts[start : start + batch_size])
        count = len(tokens)
        tokens = np.pad(tokens, ((0, batch_size - count), (0, 0)))
        rows.append(np.asarray(encode(tokens))[:count])
    embeddings = np.concatenate(rows).reshape(len(names), len(templates), -1)
    return np.asarray(normalise_rows(jnp.asarray(embeddings.mean(1))))


def make_ranker(
    model: CLIP, variables: Variables, classifier: Float[np.ndarray, "c d"], mesh: Mesh
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns `rank(images uint8[b, s, s, 3], classes int[b, k]) -> int[b, k]`.

    The rank of a class for a picture is the number of classes that the model puts before it:
    0 is the prediction. Of classes with equal scores the lower index comes first.
    """

    @jax.jit
    def ranks(
        images: jax.Array, classes: Int[Array, "b k"], classifier: Float[Array, "c d"]
    ) -> Int[Array, "b k"]:
        pixels = normalise(images, str(jnp.dtype(model.dtype)))
        features = normalise_rows(encode_image(model, variables, pixels))
        scores = jnp.matmul(features, classifier.T, precision=jax.lax.Precision.HIGHEST)
        own = jnp.take_along_axis(scores, classes, 1)[:, :, None]
        order = jnp.arange(scores.shape[1])
        before = (scores[:, None] > own) | (
            (scores[:, None] == own) & (order < classes[:, :, None])
        )
        # Nothing compares with NaN: every class would come first.
        return jnp.where(jnp.isfinite(scores).all(-1, keepdims=True), before.sum(-1), -1)

    place = jnp.asarray(classifier)

    def rank(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        arrays = place_batch(mesh, {"images": images, "classes": classes.astype(np.int32)})
        return np.asarray(ranks(arrays["images"], arrays["classes"], place))

    return rank


def rank_all(
    rank: Callable[[np.ndarray, np.ndarray], np.ndarray],
    batches: Iterable[EvaluationBatch],
    batch_size: int,
    target: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks the label and the target of every picture.

    A last, smaller batch is filled up so that nothing compiles twice; what it is filled with
    is counted nowhere.

    Returns:
      labels int[n], and ranks int[n, 2] of label and target (without a target: of the label).

    Raises:
      UserError: the model's scores are not finite.
    """
    labels, ranks = [], []
    for batch in batches:
        label = batch["label"]
        classes = np.stack([label, np.full_like(label, target) if target is not None else label], 1)
        missing = batch_size - len(label)
        images = np.pad(batch["images"], ((0, missing), (0, 0), (0, 0), (0, 0)))
        padded = np.pad(classes, ((0, missing), (0, 0)))
        labels.append(label)
        ranks.append(rank(images, padded)[: len(label)])
    if not labels:
        return np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    found = np.concatenate(ranks)
    if (found < 0).any():
        raise UserError(
            f"the model's scores for {(found < 0).any(1).sum()} of {len(found)} pictures are not "
            "finite: it diverged in training"
        )
    return np.concatenate(labels), found
