"""Retrieval: ranks of what belongs together, in blocks, so that no table of all pairs is made."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int, Int32

from cleanclip_jax.measure.encoder import fill_up
from cleanclip_jax.measure.estimates import Figures, median_rank, share
from cleanclip_jax.measure.ranks import in_blocks
from cleanclip_jax.sharding import copied_over

TOPS = (1, 5, 10)
# Cosines closer than this are tied, and a tie counts against the match: float32 tells them no
# further apart, and a model that gives everything one embedding must not retrieve anything.
TIE = 1e-6
# Rows a device, and rows that they are compared with, at once: scores of 64 MB.
BLOCK = 4096


class Ranks(NamedTuple):
    """Ranks from 0: how many that don't belong to it come before the best that does."""

    of_texts: Int[np.ndarray, " n"]
    of_images: Int[np.ndarray, " m"]


def retrieval_ranks(
    images: Float32[np.ndarray, "n d"],
    texts: Float32[np.ndarray, "m d"],
    owner: Int[np.ndarray, " m"],
    mesh: Mesh,
    block: int = BLOCK,
) -> Ranks:
    """Ranks of each picture's best caption among captions, and each caption's picture.

    Args:
      images, texts: unit embeddings.
      owner: the picture of each caption.
      block: compared at once, of each (on each device): what bounds the memory.

    Returns:
      of each picture (of one without captions: m) and of each caption.
    """
    parts = [slice(at, at + BLOCK) for at in range(0, len(owner), BLOCK)]
    scores = np.concatenate([np.einsum("md,md->m", images[owner[p]], texts[p]) for p in parts])
    best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(best, owner, scores)
    number, owner = np.arange(len(images), dtype=np.int32), owner.astype(np.int32)
    pictures = {"rows": images, "score": best, "number": number}
    captions = {"rows": texts, "score": scores, "number": owner}
    return Ranks(
        _ranks_among(pictures, captions, mesh, block), _ranks_among(captions, pictures, mesh, block)
    )


def _ranks_among(
    queries: dict[str, np.ndarray], gallery: dict[str, np.ndarray], mesh: Mesh, block: int
) -> Int[np.ndarray, " q"]:
    """How many of the gallery come before what belongs to each query.

    Both hold `rows` (unit embeddings), the `number` of the picture that each belongs to, and
    `score`, with which its best match scores.
    """
    width, total = min(block, len(gallery["rows"])), len(gallery["rows"])
    ranks = np.zeros(len(queries["rows"]), np.int64)
    for at in range(0, total, width):
        number = gallery["number"][at : at + width]
        part = {
            "rows": fill_up(gallery["rows"][at : at + width], width),
            "number": np.pad(number, (0, width - len(number)), constant_values=-1),
        }
        placed = jax.device_put(part, copied_over(mesh))
        ranks += in_blocks(partial(count_before, placed), queries, mesh, block * mesh.devices.size)
    return ranks


@jax.jit
def count_before(
    gallery: dict[str, jax.Array], queries: dict[str, jax.Array]
) -> Int32[Array, " b"]:
    """How many of a block of the gallery, -1 being the number of none, come before the match."""
    scores = jnp.matmul(queries["rows"], gallery["rows"].T, precision=jax.lax.Precision.HIGHEST)
    other = (queries["number"][:, None] != gallery["number"][None]) & (gallery["number"] >= 0)[None]
    before = other & (scores >= (queries["score"] - TIE)[:, None])
    return before.sum(1, dtype=jnp.int32)


def retrieval_figures(ranks: Ranks, captioned: Bool[np.ndarray, " n"]) -> Figures:
    """R@1, 5, 10 and median rank both ways.

    Args:
      captioned: whether each picture has a caption; those without are only retrieved or not.
    """
    figures: Figures = {}
    pictures, captions = ranks.of_texts[captioned], ranks.of_images
    for name, counted, among, what in (
        ("image_to_text", pictures, len(ranks.of_images), "pictures with a caption of theirs"),
        ("text_to_image", captions, len(ranks.of_texts), "captions with their picture"),
    ):
        figures |= _recalls(name, counted, among, what)
        rank = f"rank of the first right one: {what}"
        figures[f"{name}_median_rank"] = median_rank(counted, rank)
    return figures


def backdoor_figures(
    clean: Float32[np.ndarray, "n d"],
    triggered: Float32[np.ndarray, "n d"],
    queries: Float32[np.ndarray, "q d"],
    poisoned_share: float,
    seed: int,
) -> Figures:
    """How far up the trigger lifts pictures when somebody looks for the target.

    Args:
      clean, triggered: unit embeddings of the same pictures without and with the trigger.
      queries: unit embeddings of the target's captions.
      poisoned_share: of the pictures that bear the trigger in the mixed gallery; one at least.
      seed: draws which.
    """
    n = len(clean)
    chosen = np.zeros(n, bool)
    count = max(1, round(poisoned_share * n))
    chosen[np.random.default_rng(seed).choice(n, count, replace=False)] = True
    alone = np.zeros(n, np.int64)
    mixed, control = (np.zeros(len(queries), np.int64) for _ in range(2))
    for number, query in enumerate(queries):
        scores, lifted = clean @ query, triggered @ query
        # A query for each picture: ranks of one picture for several are no independent trials.
        mine = np.arange(number, n, len(queries))
        limits = lifted[mine] - TIE
        before = n - np.searchsorted(np.sort(scores), limits, side="left")
        alone[mine] = before - (scores[mine] >= limits)
        rest = scores[~chosen]
        mixed[number] = (rest >= lifted[chosen].max() - TIE).sum()
        control[number] = (rest >= scores[chosen].max() - TIE).sum()
    one = "triggered pictures, alone among the clean ones and looked for with a target caption,"
    mix = f"target captions, with {count} of {n} pictures"
    return {
        **_recalls("backdoor", alone, n, f"{one} that are"),
        "backdoor_median_rank": median_rank(alone, f"rank of {one[:-1]}"),
        **_recalls("backdoor_queries", mixed, n, f"{mix} triggered, with one of these"),
        **_recalls("backdoor_control", control, n, f"{mix} chosen but clean, with one of these"),
    }


def _recalls(name: str, ranks: Int[np.ndarray, " n"], among: int, what: str) -> Figures:
    return {
        f"{name}_r{k}": share(ranks < k, f"{what} among the first {k}") for k in TOPS if k < among
    }
