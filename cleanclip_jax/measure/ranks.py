"""Classes ranked for features that are there already: in blocks, over the devices."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.measure.encoder import fill_up
from cleanclip_jax.sharding import copied_over, place_batch

# Pictures ranked at once: with 1,000 classes, scores of 16 MB.
BLOCK = 4096


@dataclass(frozen=True)
class Classifier:
    """What gives each class a score: unit text embeddings, or a linear head.

    Attributes:
      names: the classes, in the order of the rows.
      normalised: whether features are scaled to unit length before they are scored.
      what: in words, for evaluation.json.
    """

    names: tuple[str, ...]
    weights: Float[np.ndarray, "c d"]
    bias: Float[np.ndarray, " c"] | None
    normalised: bool
    what: str

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.names):
            raise UserError(
                f"the {self.what} has {len(self.weights)} classes, and {len(self.names)} names: "
                "it was made for another set"
            )


def check_labels(labels: Int[np.ndarray, " n"], classes: int) -> None:
    """Refuses labels that are no class.

    Raises:
      UserError: the first of them.
    """
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise UserError(
            f"record {wrong[0]} has the label {labels[wrong[0]]}, but the {classes} classes are "
            f"0..{classes - 1}: name the classes that belong to the set"
        )


def rank_classes(
    features: Float32[np.ndarray, "n d"],
    classes: Int[np.ndarray, "n k"],
    classifier: Classifier,
    mesh: Mesh,
    block: int = BLOCK,
) -> Int[np.ndarray, "n k"]:
    """The rank of each asked class for each picture: how many classes have a higher score.

    0 is the prediction. Of classes with equal scores the lower index comes first; classes with the
    same weights, as two of one name, have equal scores whatever the rounding.

    Raises:
      UserError: features of another width, or scores that are not finite.
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
    devices = mesh.devices.size
    size = -(-min(block, len(features)) // devices) * devices
    found = []
    for start in range(0, len(features), size):
        rows = features[start : start + size]
        wanted = classes[start : start + size].astype(np.int32)
        arrays = {"features": fill_up(rows, size), "classes": fill_up(wanted, size)}
        ranks = _ranks(place_batch(mesh, arrays), placed, classifier.normalised)
        found.append(np.asarray(ranks)[: len(rows)])
    ranks = np.concatenate([*found, np.zeros((0, classes.shape[1]), np.int32)])
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
    features, classes = rows["features"], rows["classes"]
    if normalised:
        features = normalise_rows(features)
    table = classifier["table"]
    scores = jnp.matmul(features, table[:, :-1].T, precision=jax.lax.Precision.HIGHEST)
    scores = (scores + table[None, :, -1])[:, classifier["twin"]]
    order = jnp.arange(scores.shape[1])[None]

    def before(asked: Int[Array, " b"]) -> Int[Array, " b"]:
        own = jnp.take_along_axis(scores, asked[:, None], 1)
        higher = (scores > own) | ((scores == own) & (order < asked[:, None]))
        return higher.sum(-1, dtype=jnp.int32)

    # Nothing compares with NaN: every class would come first.
    finite = jnp.isfinite(scores).all(-1)
    ranks = [jnp.where(finite, before(column), -1) for column in classes.T]
    return jnp.stack(ranks, 1)
