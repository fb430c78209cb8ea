"""Nearest neighbours of pictures' embeddings among reference pairs: exact, in blocks.

Distances are matrix products: of x and references y, |x - y|² = |x|² - 2 (x·y - |y|²/2), so that
the nearest have the largest x·y - |y|²/2. What equals x but for rounding (a cosine above 1 - 1e-6
to it) is x itself or a copy, and no neighbour of it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import fill_up
from cleanclip_jax.measure.ranks import in_blocks
from cleanclip_jax.sharding import copied_over

# Rows compared at once: with 2,048 references, 16 MB.
BLOCK = 2048
# Rows count as equal from a cosine of 1 less this on.
EQUAL = 1e-6
# The k largest of a row lie in the k groups of so many columns with the largest maxima: to look
# through these, and not through the whole row, takes a fifth of the time.
GROUP = 8


class Neighbours(NamedTuple):
    """The nearest references of each row, by rising distance."""

    distance: Float32[np.ndarray, "b k"]
    rows: Int[np.ndarray, "b k"]


class References:
    """Reference embeddings on the devices of `mesh`, each distinct one once.

    Args:
      rows: unit embeddings, or others.
      k: how many neighbours are looked for.
    """

    def __init__(self, rows: Float32[np.ndarray, "m d"], k: int, mesh: Mesh):
        count = len(rows)
        padded = fill_up(rows, max(GROUP * k, -(-count // GROUP) * GROUP))
        offsets = np.full(len(padded), np.inf, np.float32)  # of what is nobody's neighbour
        offsets[:count] = _half_squares(rows)
        self.k, self._mesh = k, mesh
        placed = jax.device_put({"rows": padded, "offsets": offsets}, copied_over(mesh))
        # The first of equal rows is the one that counts.
        copies = in_blocks(
            lambda some: _has_earlier_copy(some, placed), _numbered(rows), mesh, BLOCK
        )
        offsets[:count][copies] = np.inf
        self.distinct = count - int(copies.sum())
        if self.distinct <= k:
            raise UserError(
                f"of {count} reference pairs {self.distinct} have different pictures, too few for "
                f"{k} neighbours: lower --k, or draw more with --sample"
            )
        self._placed = jax.device_put({"rows": padded, "offsets": offsets}, copied_over(mesh))
        #: Of each reference among the others; the neighbours of copies are those of the first.
        self.among_themselves = self.nearest(rows)

    def nearest(self, rows: Float32[np.ndarray, "b d"]) -> Neighbours:
        """The k nearest of the distinct references, of which none equals the row."""
        part = {"rows": rows, "squares": 2 * _half_squares(rows)}
        packed = in_blocks(
            lambda some: _nearest(some, self._placed, self.k), part, self._mesh, BLOCK
        )
        return Neighbours(packed[:, 0], packed[:, 1].astype(np.int32))


def _half_squares(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, " n"]:
    return np.einsum("nd,nd->n", rows, rows) / 2


def _numbered(rows: Float32[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
    order = np.arange(len(rows), dtype=np.int32)
    return {"rows": rows, "squares": 2 * _half_squares(rows), "order": order}


def _closeness(
    some: dict[str, jax.Array], references: dict[str, jax.Array]
) -> tuple[Float[Array, "b m"], Float[Array, "b 1"]]:
    """x·y - |y|²/2 for rows x and references y, and from where on y equals x."""
    # A GPU would take TF32 and a TPU bfloat16 passes: differences of distances would be noise.
    products = jnp.matmul(some["rows"], references["rows"].T, precision=jax.lax.Precision.HIGHEST)
    return products - references["offsets"][None], some["squares"][:, None] * (0.5 - EQUAL)


@jax.jit
def _has_earlier_copy(some: dict[str, jax.Array], references: dict[str, jax.Array]) -> jax.Array:
    close, equal = _closeness(some, references)
    earlier = jnp.arange(close.shape[1])[None] < some["order"][:, None]
    return ((close >= equal) & earlier).any(1)


@partial(jax.jit, static_argnums=2)
def _nearest(
    some: dict[str, jax.Array], references: dict[str, jax.Array], k: int
) -> Float[Array, "b 2 k"]:
    """Distances, and indices, which float32 holds exactly up to 16 million."""
    close, equal = _closeness(some, references)
    close = jnp.where(close >= equal, -jnp.inf, close)
    # Columns j, j + groups, j + 2 groups, ... are a group: their maxima are taken side by side.
    groups = close.shape[1] // GROUP
    grouped = close.reshape(len(close), GROUP, groups)
    _, best = jax.lax.top_k(grouped.max(1), k)
    columns = jnp.take_along_axis(grouped, best[:, None], 2).reshape(len(close), GROUP * k)
    values, at = jax.lax.top_k(columns, k)
    index = at // k * groups + jnp.take_along_axis(best, at % k, 1)
    squares = some["squares"][:, None] - 2 * values
    distance = jnp.sqrt(jnp.maximum(squares, 0)).astype(jnp.float32)
    return jnp.stack([distance, index.astype(jnp.float32)], 1)
