"""Progressive removal, an option of the original's code: pairs that match too well are dropped."""

import math

import numpy as np
from jaxtyping import Float64, Int64
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.run.stages import Rule, Split, Stage, cut


class Removal(Rule):
    """After each of the named epochs the share of the highest scores is dropped.

    What is left, and so the length of the run, follows from the number of pairs alone: one that is
    unreadable counts as any other, and is never dropped.
    """

    def __init__(self, config: ConfigDict, count: int):
        settings = config.removal
        self._share, self._seed = settings["share"], config.seed
        self._batch, after = config.train.batch_size, sorted(set(settings["after"]))
        stages, left, first, epoch = [], count, 0, 1
        epochs = config.train.epochs if config.train.steps is None else max(after) + 1
        while epoch <= epochs:
            last = min([end for end in after if end >= epoch] or [epochs])
            steps = left // self._batch
            if not steps:
                raise UserError(
                    f"config.removal leaves {left} pairs after epoch {epoch - 1}, less than "
                    f"config.train.batch_size {self._batch}: name fewer epochs or a smaller share"
                )
            last = min(last, epochs)
            stages.append(Stage(first, first + (last - epoch + 1) * steps, epoch, epoch > 1))
            first, epoch = stages[-1].last, last + 1
            left -= dropped(left, self._share)
        if config.train.steps is not None and config.train.steps > first:
            stages[-1] = Stage(stages[-1].first, config.train.steps, stages[-1].epoch, True)
        super().__init__(cut(stages, config.train.steps))

    def decide(
        self, scores: Float64[np.ndarray, " n"], stage: Stage, before: Split | None
    ) -> Split:
        """`chosen`: what stays of the split before."""
        rows = np.arange(len(scores)) if before is None else np.flatnonzero(before["chosen"])
        chosen = np.zeros(len(scores), bool)
        chosen[staying(scores, rows, self._share)] = True
        return {"chosen": chosen}

    def order(self, split: Split, stage: Stage) -> Int64[np.ndarray, " m"]:
        """Epoch after epoch in a new order, each cut to whole batches."""
        rows = np.flatnonzero(split["chosen"])
        size, wanted = len(rows) // self._batch * self._batch, stage.last - stage.first
        orders = [
            np.random.default_rng([self._seed, stage.epoch + i]).permutation(rows)[:size]
            for i in range(-(-wanted * self._batch // size))
        ]
        return np.concatenate(orders)[: wanted * self._batch]


def dropped(count: int, share: float) -> int:
    """How many of so many pairs are dropped."""
    return math.floor(share * count + 1e-9)


def staying(
    scores: Float64[np.ndarray, " n"], rows: Int64[np.ndarray, " m"], share: float
) -> Int64[np.ndarray, " k"]:
    """The rows that stay, by falling score; what has none comes last."""
    falling = rows[np.argsort(-scores[rows], kind="stable")]
    return falling[dropped(len(rows), share) :]
