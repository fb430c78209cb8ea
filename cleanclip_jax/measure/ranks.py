"""Classes scored by prompts or a head, and ranked for features: in blocks, over the devices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.measure.encoder import Encoder, fill_up
from cleanclip_jax.measure.features import texts_of
from cleanclip_jax.sharding import copied_over, place_batch
from cleanclip_jax.start.head import Head
from cleanclip_jax.text.prompts import fill

# Pictures ranked at once: with 1,000 classes, scores of 16 MB.
BLOCK = 4096
# Class names embedded at once, so that 1,000 classes of 80 prompts need no array of all of them.
NAMES_AT_ONCE = 128


@dataclass(frozen=True)
class Classifier:
    """What gives each class a score: unit text embeddings, or a linear head."""

    names: tuple[str, ...]  # the classes, in the order of the rows
    weights: Float[np.ndarray, "c d"]
    bias: Float[np.ndarray, " c"] | None
    normalised: bool  # whether features are scaled to unit length before they are scored
    what: str  # in words, for evaluation.json

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.names):
            raise UserError(
                f"the {self.what} has {len(self.weights)} classes, and {len(self.names)} names: "
                "it was made for another set"
            )


def text_classifier(encoder: Encoder, names: Sequence[str], templates: Sequence[str]) -> Classifier:
    """Returns a unit embedding for each class name.

    Each template is filled and embedded, normalised, averaged over the templates and
    normalised again, as in CLIP (arXiv 2103.00020). Classes of one name have one embedding.
    """
    distinct = list(dict.fromkeys(names))
    rows = []
    for start in range(0, len(distinct), NAMES_AT_ONCE):
        some = distinct[start : start + NAMES_AT_ONCE]
        prompts = [fill(template, name) for name in some for template in templates]
        embeddings = unit(texts_of(encoder, prompts)).reshape(len(some), len(templates), -1)
        rows.append(unit(embeddings.mean(1)))
    embedded = np.concatenate(rows)
    at = {name: row for row, name in enumerate(distinct)}
    weights = embedded[[at[name] for name in names]]
    return Classifier(tuple(names), weights, None, True, f"text, {len(templates)} templates")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, in their own type."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def head_classifier(head: Head | None) -> Classifier | None:
    """A trained linear head as what classes are scored with; None of none."""
    if head is None or head.params is None:
        return None
    return Classifier(
        names=head.classes,
        weights=np.asarray(head.params["kernel"]).T,
        bias=np.asarray(head.params["bias"]),
        normalised=head.normalised,
        what=f"linear head on {'unit-length' if head.normalised else 'un-normalised'} features",
    )


def in_blocks(
    count: Callable[[dict[str, jax.Array]], jax.Array],
    rows: Mapping[str, np.ndarray],
    mesh: Mesh,
    block: int,
) -> np.ndarray:
    """What `count`, a jitted function, gives for all rows: in blocks of one shape.

    Args:
      count: arrays of so many rows over the devices → an array with as many rows.
      rows: arrays of equal length by name; a last, smaller block is filled up with zeros.
      block: the most rows at once.
    """
    total, devices = len(next(iter(rows.values()))), mesh.devices.size
    size = max(1, -(-min(block, total) // devices)) * devices
    parts = []
    for start in range(0, max(1, total), size):
        part = {name: fill_up(array[start : start + size], size) for name, array in rows.items()}
        parts.append(np.asarray(count(place_batch(mesh, part))))
    return np.concatenate(parts)[:total]


def rank_classes(
    features: Float32[np.ndarray, "n d"],
    classes: Int[np.ndarray, "n k"],
    classifier: Classifier,
    mesh: Mesh,
    block: int = BLOCK,
) -> Int[np.ndarray, "n k"]:
    """The rank of each given class for each picture: how many classes have a higher score.

    0 is the prediction. Of classes with equal scores the lower index comes first; classes with the
    same weights, as two of one name, have equal scores whatever the rounding.
    """
    if features.shape[1] != classifier.weights.shape[1]:
        raise UserError(
            f"the {classifier.what} takes features of {classifier.weights.shape[1]} numbers, the "
            f"model gives {features.shape[1]}: it was made for another model"
        )
    bias = np.zeros(len(classifier.names)) if classifier.bias is None else classifier.bias
    table = np.concatenate([classifier.weights, bias[:, None]], 1).astype(np.float32)
    distinct, twin = np.unique(table, axis=0, return_inverse=True)
    placed = jax.device_put(
        {"table": distinct, "twin": twin.reshape(-1).astype(np.int32)}, copied_over(mesh)
    )
    ranks = in_blocks(
        lambda rows: _ranks(rows, placed, classifier.normalised),
        {"features": features, "classes": classes.astype(np.int32)},
        *(mesh, block),
    )
    lost = int((ranks < 0).any(1).sum())
    if lost:
        raise UserError(
            f"the model's scores for {lost} of {len(ranks)} pictures are not finite: it diverged "
            "in training"
        )
    return ranks


@partial(jax.jit, static_argnums=2)
def _ranks(
    rows: dict[str, jax.Array], classifier: dict[str, jax.Array], normalised: bool
) -> Int[Array, "b k"]:
    features = normalise_rows(rows["features"]) if normalised else rows["features"]
    table = classifier["table"]
    scores = jnp.matmul(features, table[:, :-1].T, precision=jax.lax.Precision.HIGHEST)
    scores = (scores + table[None, :, -1])[:, classifier["twin"]]
    order = jnp.arange(scores.shape[1])[None]

    def before(index: Int[Array, " b"]) -> Int[Array, " b"]:
        score = jnp.take_along_axis(scores, index[:, None], 1)
        higher = (scores > score) | ((scores == score) & (order < index[:, None]))
        return higher.sum(-1, dtype=jnp.int32)

    # Nothing compares with NaN: every class would come first.
    finite = jnp.isfinite(scores).all(-1)
    return jnp.stack([jnp.where(finite, before(one), -1) for one in rows["classes"].T], 1)
