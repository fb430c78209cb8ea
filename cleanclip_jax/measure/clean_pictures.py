"""Clean pictures of a run's training data, for what is found or measured without its test set."""

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.features import Reading, Shown, batches_of
from cleanclip_jax.record import Source


def clean_pictures(
    config: ConfigDict, source: Source, count: int, seed: int
) -> UInt8[np.ndarray, "n s s 3"]:
    """So many pictures of a source at the model's size, drawn by the seed."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:count])
    data, size = config.data, config.model.image_size
    reading = Reading(
        config.evaluation.batch_size, config.evaluation.workers, data.timeout, data.max_bad_share
    )
    with batches_of(Shown(source, chosen), size, reading) as batches:
        parts = [batch["images"] for batch in batches]
        unreadable = dict(batches.unreadable)
    pictures = np.concatenate(parts) if parts else np.zeros((0, size, size, 3), np.uint8)
    if len(unreadable) > data.max_bad_share * len(chosen) or not len(pictures):
        first = next(iter(unreadable.values()), "there is none")
        raise UserError(
            f"config.data.train: {len(unreadable)} of {len(chosen)} pictures are unreadable, more "
            f"than config.data.max_bad_share allows; the first: {first}"
        )
    return pictures
