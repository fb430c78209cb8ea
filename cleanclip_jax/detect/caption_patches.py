"""How small a patch turns every picture into a caption: which one does a model have a backdoor to?

DECREE's search with another goal (Neural Cleanse's idea): triggered pictures are to be taken for
one caption among all candidates. A caption that needs far less than the others is suspicious;
control captions, which nobody suspects, say what others need.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from cleanclip_jax.detect.decree import Patch, objective, smallest_patch
from cleanclip_jax.detect.inversion import Seen
from cleanclip_jax.detect.scored import Tower

SCALE = 100.0  # of cosines, as CLIP's logits end with
TO_DEVIATION = 1.4826  # of a normal distribution's median absolute deviation


def _logits(seen: Seen) -> Float[Array, "b c"]:
    texts = seen.given["texts"]
    return SCALE * jnp.matmul(seen.units, texts.T, precision=jax.lax.Precision.HIGHEST)


def towards(seen: Seen) -> Float[Array, ""]:
    """Cross-entropy with the target, of 100 times the cosines with all candidates."""
    logits = _logits(seen)
    labels = jnp.broadcast_to(seen.given["target"], logits.shape[:1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def landing(seen: Seen) -> Float[Array, ""]:
    """The share of the batch that is taken for the target."""
    return (_logits(seen).argmax(-1) == seen.given["target"]).mean()


def caption_patches(
    tower: Tower,
    texts: Float[np.ndarray, "c d"],
    targets: Sequence[int],
    pictures: UInt8[np.ndarray, "n s s 3"],
    steps: int,
    batch: int = 32,
    seed: int = 0,
) -> Iterator[Patch]:
    """The smallest patch to each of the targets, rows of `texts`; it succeeds above 99 % landing.

    Args:
      texts: unit embeddings of all candidates.
    """
    # One program for all targets.
    inversion = objective(tower.encode, terms={"towards": towards, "landing": landing})
    rows = jnp.asarray(texts)
    for target in targets:
        yield smallest_patch(
            *(tower, pictures, steps, batch, seed),
            inversion=inversion,
            given={"texts": rows, "target": jnp.asarray(target, jnp.int32)},
            goal={"towards": 1.0},
            success="landing",
        )


def anomaly_index(sizes: Sequence[float | None]) -> list[float | None]:
    """How far each size is below the median, in robust deviations (Neural Cleanse): large is odd.

    None where there is no size, and everywhere where the sizes do not differ.
    """
    there = np.array([size for size in sizes if size is not None])
    if not len(there):
        return [None] * len(sizes)
    median = np.median(there)
    deviation = TO_DEVIATION * np.median(np.abs(there - median))
    return [
        None if size is None or not deviation else float((median - size) / deviation)
        for size in sizes
    ]
