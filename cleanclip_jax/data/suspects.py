"""Which pairs a run does not trust: config.data.suspects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from cleanclip_jax.config_keys import keys_of
from cleanclip_jax.data.subset import read_ids
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import take
from cleanclip_jax.record import Source


def find_suspects(
    settings: Mapping[str, Any], source: Source, copy: Path | None = None
) -> Bool[np.ndarray, " n"]:
    """Marks the suspects among the records of `source`.

    Args:
      settings: as config.data.suspects has them.
      copy: a file of ids that was written of them before, which is read in their place.
    """
    where = "config.data.suspects"
    given = take(where, settings, keys_of("data.suspects"))
    if (given["manifest"] is None) == (given["scores"] is None):
        raise UserError(f"{where} takes a manifest, or scores with a share: give one of the two")
    if (given["scores"] is None) != (given["share"] is None):
        raise UserError(f"{where}: a share goes with scores, and scores with a share")
    if copy is not None:
        marked = np.isin(source.ids(), read_ids(copy, source))
    elif given["manifest"] is not None:
        from cleanclip_jax.attacks.plan import Plan

        marked = np.zeros(len(source), bool)
        marked[Plan.load(given["manifest"], source).index] = True
    else:
        from cleanclip_jax.data.scores import lowest, read_scores

        marked = lowest(-read_scores(given["scores"], source), given["share"])
    if marked.all() or not marked.any():
        share = "every pair" if marked.any() else "no pair"
        raise UserError(f"{where}: {share} of config.data.train is suspected: check the file")
    return marked
