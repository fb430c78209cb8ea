"""Scores as Detect-CLIP's published code computes them (arXiv 2502.01385): its faults included.

`neighbours=original` restores them; docs/fidelity.md has what we do in their place. A picture is
scored within its block against all other pictures and, where captions are given, all other
captions: un-normalised features, differences in float32. Its neighbours are looked up by positions
in a row from which its picture and caption were removed, in a matrix from which nothing was: half
of them are other rows ("neighbours looked up").
"""

from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int


class Block:
    """Pictures scored together.

    Args:
      images, texts: features of the block's pairs; without texts the pictures alone.
      texts_scored: whether captions are scored, in place of pictures.
    """

    def __init__(
        self,
        images: Float32[np.ndarray, "b d"],
        texts: Float32[np.ndarray, "b d"] | None = None,
        texts_scored: bool = False,
    ):
        count = len(images)
        self.images, self.texts = images, texts
        #: Pictures, then captions.
        self.references = images if texts is None else np.concatenate([images, texts])
        self._scored = slice(count, None) if texts_scored else slice(count)
        removed = np.arange(count)[:, None] + np.arange(0, len(self.references), count)
        self._left = np.ones((count, len(self.references)), bool)
        np.put_along_axis(self._left, removed, False, axis=1)

    @cached_property
    def _every(self) -> Float32[np.ndarray, "n n"]:
        return np.asarray(_distances(self.references))

    @cached_property
    def full(self) -> Float32[np.ndarray, "n n"]:
        """Each reference's distances to all of them, itself included, sorted."""
        return np.sort(self._every, axis=1)

    @cached_property
    def _sorted(self) -> tuple[Float32[np.ndarray, "b m"], Int[np.ndarray, "b m"]]:
        rows = self._every[self._scored][self._left].reshape(len(self._left), -1)
        order = np.argsort(rows, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), order

    def kdist(self, k: int) -> Float32[np.ndarray, " b"]:
        """The distance to one neighbour further than its name has it."""
        return self._sorted[0][:, k]

    def slof(self, k: int) -> Float32[np.ndarray, " b"]:
        """The mean over the looked-up neighbours o of d(i) / d(o)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _mean(self.kdist(k)[:, None] / self.full[:, k][self._sorted[1][:, :k]])

    def lid(self, k: int, estimator: str = "mle") -> Float[np.ndarray, " b"]:
        """Local intrinsic dimension, by the moments' estimator where it is `mom`."""
        return _dimension(self._sorted[0], k, estimator)

    def dao(self, k: int, estimator: str = "mle") -> Float[np.ndarray, " b"]:
        """The mean over the looked-up neighbours o of LID(o) · ln(d(i) / d(o))."""
        looked_up = self._sorted[1][:, :k]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.log(self.kdist(k)[:, None] / self.full[:, k][looked_up])
            return _mean(_dimension(self.full, k, estimator)[looked_up] * ratios)


@jax.jit
def _distances(rows: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Euclidean, by differences: from a row to itself exactly 0."""
    return jnp.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))


def _dimension(
    rising: Float32[np.ndarray, "n m"], k: int, estimator: str
) -> Float[np.ndarray, " n"]:
    nearest, last = rising[:, :k], rising[:, k : k + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        if estimator == "mom":
            mean = nearest.mean(1)
            return mean / (last[:, 0] - mean)
        return -k / np.log(nearest / last + np.float32(1e-4)).sum(1)


def _mean(scores: Float[np.ndarray, "b k"]) -> Float[np.ndarray, " b"]:
    return np.nan_to_num(scores, nan=1000, posinf=1000, neginf=0).mean(1)
