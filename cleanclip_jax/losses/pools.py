"""Pools: embeddings of earlier batches, among which terms look for nearest neighbours.

A pool is a term's memory: `rows` [P, d], zeros where nothing was written yet, and `next`, the row
that is written next. It is looked up first and fed then, with the global batch in its order.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.losses.terms import Context, Memory, Term

# Similarities decide which rows are taken: not TF32, not bfloat16 passes.
HIGHEST = jax.lax.Precision.HIGHEST
MATCHED_ROWS, VIEW_ROWS = 21_845, 256  # the published codes'


def new_pool(width: int, rows: int, start: str, key: jax.Array) -> dict[str, jax.Array]:
    """A pool as it begins: empty, or full of noise as in the published codes.

    Args:
      start: 'empty'; 'noise', normal rows of a norm of about sqrt(width); or 'unit_noise'.
    """
    kind = jnp.result_type(float)
    filled = jnp.zeros((rows, width), kind)
    if start != "empty":
        filled = jax.random.normal(key, (rows, width), kind)
    return {
        "rows": normalise_rows(filled) if start == "unit_noise" else filled,
        "next": jnp.zeros((), jnp.int32),
    }


def look_up(rows: Float[Array, "P d"], queries: Float[Array, "b d"]) -> Int[Array, " b"]:
    """The row of the largest cosine with each query, the first of several; never an empty one."""
    norms = jnp.linalg.norm(rows, axis=-1)
    similar = jnp.matmul(queries, rows.T, precision=HIGHEST)
    similar = similar / jnp.where(norms > 0, norms, 1.0)[None]
    return jnp.where(norms[None] > 0, similar, -jnp.inf).argmax(1)


def nearest(
    pool: Memory, queries: Float[Array, "b d"], instead: Float[Array, "b d"]
) -> Float[Array, "b d"]:
    """The nearest rows as they lie in the pool, without gradient; `instead` until it is full."""
    rows = pool["rows"]
    index = look_up(rows, jax.lax.stop_gradient(queries))
    full = jnp.any(rows[-1] != 0)  # the last row is written last
    return jnp.where(full, jax.lax.stop_gradient(rows[index]), instead)


def feed(pool: Memory, units: Float[Array, "b d"]) -> Memory:
    """Writes a batch over the oldest rows; what goes beyond the last row is dropped."""
    count, first = len(pool["rows"]), pool["next"]
    at = first + jnp.arange(len(units), dtype=jnp.int32)
    rows = pool["rows"].at[at].set(jax.lax.stop_gradient(units), mode="drop")
    return {"rows": rows, "next": jnp.where(first + len(units) >= count, 0, first + len(units))}


def matched(
    c: Context,
    pool: int = MATCHED_ROWS,
    every: int = 2,
    start: str = "empty",
    update: str = "always",
) -> tuple[jax.Array, Memory]:
    """Pictures against the nearest captions of a pool, both ways (RoCLIP, arXiv 2303.06854).

    In the epochs in which it counts, in place of `cross_modal`. Neighbours have no gradient, so
    only the image tower and the scale get one. Until the pool is full it is `cross_modal`.

    Args:
      pool: rows.
      every: it counts in each epoch, from 1, that this divides.
      start: what the pool begins with; the published code's is noise.
      update: whether each step feeds the pool; in the published code only those that are matched.
    """
    captions = nearest(c.memory, c.units["image"], c.units["text"])
    loss = (c.info_nce("image", captions) + c.info_nce(captions, "image")) / 2
    feeds = c.counts or update == "always"
    return loss, feed(c.memory, c.units["text"]) if feeds else c.memory


def _matched_memory(
    width: int, seed: int = 0, pool: int = MATCHED_ROWS, start: str = "empty", **_: Any
) -> Memory:
    return new_pool(width, pool, start, jax.random.fold_in(jax.random.key(seed), 2))


def _matched_resting(epoch: int, every: int = 2, **_: Any) -> frozenset[str]:
    return frozenset({"matched" if epoch % every else "cross_modal"})


def check_rows(name: str, batch_size: int, rows: int) -> None:
    """Refuses a pool that a batch does not fit into."""
    if rows < batch_size:
        raise UserError(
            f"config.objective.{name}.pool is {rows}, less than config.train.batch_size "
            f"{batch_size}: a pool holds a batch or more"
        )


def _check_matched(batch_size: int, pool: int = MATCHED_ROWS, **_: Any) -> None:
    check_rows("matched", batch_size, pool)


def nearest_in_modal(
    c: Context, pool: int = VIEW_ROWS, start: str = "empty"
) -> tuple[jax.Array, Memory]:
    """Views against the nearest neighbours of their originals, in each modality, one way.

    SafeCLIP's in-modal loss (arXiv 2310.05862). Neighbours have no gradient, so that only the
    second views get one; until a pool is full the original is its own neighbour, with gradient.
    Both pools are fed in the steps in which it counts.
    """
    loss, fed = jnp.zeros((), c.units["image"].dtype), {}
    for name in ("image", "text"):
        original, memory = c.units[name], c.memory[name]
        loss = loss + c.info_nce(f"{name}_view", nearest(memory, original, original)) / 2
        fed[name] = feed(memory, original)
    return loss, fed if c.counts else c.memory


def _view_memory(
    width: int, seed: int = 0, pool: int = VIEW_ROWS, start: str = "empty", **_: Any
) -> Memory:
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 3))
    names = ("image", "text")
    return {name: new_pool(width, pool, start, keys[i]) for i, name in enumerate(names)}


def _check_views(batch_size: int, pool: int = VIEW_ROWS, **_: Any) -> None:
    check_rows("nearest_in_modal", batch_size, pool)


NEAREST_IN_MODAL = Term(
    nearest_in_modal,
    needs=frozenset({"text", "view"}),
    memory=_view_memory,
    check=_check_views,
)
MATCHED = Term(matched, memory=_matched_memory, resting=_matched_resting, check=_check_matched)
