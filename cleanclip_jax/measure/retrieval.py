"""Retrieval: ranks of what belongs together, in blocks, so that no table of all pairs is made."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int, Int32

from cleanclip_jax.measure.encoder import fill_up
from cleanclip_jax.measure.estimates import Figure, Measured, median_rank, share
from cleanclip_jax.sharding import copied_over, place_batch

TOPS = (1, 5, 10)
# Cosines closer than this are tied, and a tie counts against the match: float32 tells them no
# further apart, and a model that gives everything one embedding must not retrieve anything.
TIE = 1e-6
# Pictures a device, and captions, that are compared at once: scores of 64 MB.
PICTURES, CAPTIONS = 4096, 4096


class Ranks(NamedTuple):
    """Ranks from 0: how many that don't belong to it come before the best that does."""

    of_texts: Int[np.ndarray, " n"]
    of_images: Int[np.ndarray, " m"]


def retrieval_ranks(
    images: Float32[np.ndarray, "n d"],
    texts: Float32[np.ndarray, "m d"],
    owner: Int[np.ndarray, " m"],
    mesh: Mesh,
    pictures: int = PICTURES,
    captions: int = CAPTIONS,
) -> Ranks:
    """Ranks of each picture's best caption among captions, and each caption's picture.

    Args:
      images, texts: unit embeddings.
      owner: the picture of each caption.
      pictures, captions: compared at once (pictures on each device): what bounds the memory.

    Returns:
      of each picture (of one without captions: m) and of each caption.
    """
    matches = _matches(images, texts, owner)
    best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(best, owner, matches)
    size = min(pictures, -(-len(images) // mesh.devices.size)) * mesh.devices.size
    width = min(captions, len(texts))
    of_texts = np.zeros(len(images), np.int64)
    of_images = np.zeros(len(texts), np.int64)
    for at in range(0, len(images), size):
        rows = slice(at, at + size)
        number = np.arange(at, min(at + size, len(images)), dtype=np.int32)
        mine = place_batch(
            mesh,
            {
                "rows": fill_up(images[rows], size),
                "best": fill_up(best[rows], size),
                "number": _padded(number, size),
            },
        )
        late = None
        for start in range(0, len(texts), width):
            columns = slice(start, start + width)
            theirs = {
                "rows": fill_up(texts[columns], width),
                "best": fill_up(matches[columns], width),
                "number": _padded(owner[columns].astype(np.int32), width),
            }
            found = count_before(mine, jax.device_put(theirs, copied_over(mesh)))
            if late is not None:
                _add(*late, of_texts[rows], of_images)
            late = found, columns
        assert late is not None
        _add(*late, of_texts[rows], of_images)
    return Ranks(of_texts, of_images)


@jax.jit
def count_before(
    images: dict[str, jax.Array], texts: dict[str, jax.Array]
) -> tuple[Int32[Array, " m"], Int32[Array, " b"]]:
    """How many of a block of images come before each text's own, and the other way about.

    `rows` are unit embeddings, `best` the score to be beaten, `number` the picture, -1 for rows
    that only fill up.
    """
    scores = jnp.matmul(images["rows"], texts["rows"].T, precision=jax.lax.Precision.HIGHEST)
    picture, text = images["number"][:, None], texts["number"][None]
    other = (picture != text) & (picture >= 0) & (text >= 0)
    before_image = other & (scores >= texts["best"][None] - TIE)
    before_text = other & (scores >= images["best"][:, None] - TIE)
    return before_image.sum(0, dtype=jnp.int32), before_text.sum(1, dtype=jnp.int32)


def _add(
    found: tuple[jax.Array, jax.Array], columns: slice, of_texts: np.ndarray, of_images: np.ndarray
) -> None:
    """Adds a block's counts to the ranks, of which these are the block's pictures."""
    before_image, before_text = (np.asarray(counts) for counts in found)
    of_texts += before_text[: len(of_texts)]
    own = of_images[columns]
    own += before_image[: len(own)]


def retrieval_figures(ranks: Ranks, captioned: Bool[np.ndarray, " n"]) -> Measured:
    """R@1, 5, 10 and median rank both ways.

    Args:
      captioned: whether each picture has a caption; those without are only found or not found.
    """
    figures: Measured = {}
    for name, found, among, what in (
        (
            "image_to_text",
            ranks.of_texts[captioned],
            len(ranks.of_images),
            "pictures with a caption of theirs",
        ),
        ("text_to_image", ranks.of_images, len(ranks.of_texts), "captions with their picture"),
    ):
        figures |= _recalls(name, found, among, what)
        figures[f"{name}_median_rank"] = median_rank(found, f"rank of the first right one: {what}")
    return figures


def backdoor_figures(
    clean: Float32[np.ndarray, "n d"],
    triggered: Float32[np.ndarray, "n d"],
    queries: Float32[np.ndarray, "q d"],
    poisoned_share: float,
    seed: int,
) -> Measured:
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
        asked = np.arange(number, n, len(queries))
        limits = lifted[asked] - TIE
        before = n - np.searchsorted(np.sort(scores), limits, side="left")
        alone[asked] = before - (scores[asked] >= limits)
        rest = scores[~chosen]
        mixed[number] = (rest >= lifted[chosen].max() - TIE).sum()
        control[number] = (rest >= scores[chosen].max() - TIE).sum()
    one = "triggered pictures, alone among the clean ones and looked for with a target caption,"
    some = f"target captions, with {count} of {n} pictures"
    return {
        **_recalls("backdoor", alone, n, f"{one} that are"),
        "backdoor_median_rank": median_rank(alone, f"rank of {one[:-1]}"),
        **_recalls("backdoor_queries", mixed, n, f"{some} triggered, with one of these"),
        **_recalls("backdoor_control", control, n, f"{some} chosen but clean, with one of these"),
    }


def _recalls(name: str, ranks: Int[np.ndarray, " n"], among: int, what: str) -> dict[str, Figure]:
    return {
        f"{name}_r{k}": share(ranks < k, f"{what} among the first {k}") for k in TOPS if k < among
    }


def _padded(numbers: Int32[np.ndarray, " b"], size: int) -> Int32[np.ndarray, " s"]:
    return np.pad(numbers, (0, size - len(numbers)), constant_values=-1)


def _matches(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> Float32[np.ndarray, " m"]:
    """Each caption's score with its own picture, in blocks."""
    parts = [slice(at, at + CAPTIONS) for at in range(0, len(owner), CAPTIONS)]
    return np.concatenate([np.einsum("md,md->m", images[owner[p]], texts[p]) for p in parts])
