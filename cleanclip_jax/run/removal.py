"""Progressive removal, an option of the original's code: pairs that match too well are dropped."""

import math

import numpy as np
from jaxtyping import Float64, Int64
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.run.stages import Rule, Split, Stage, check_epochs


class Removal(Rule):
    """After each of the named epochs the share of the highest scores is dropped.

    What is left, and so the length of the run, follows from the number of pairs alone: one that is
    unreadable counts as any other, and is never dropped.
    """

    def __init__(self, config: ConfigDict, count: int):
        self._share, self._seed = config.removal["share"], config.seed
        self._batch, after = config.train.batch_size, set(config.removal["after"])
        most, epochs = config.train.steps or math.inf, config.train.epochs
        if config.train.steps is not None:
            epochs = config.train.steps  # an epoch has a step or more
        whole = min(min(after), epochs) * (count // self._batch)
        stages, left, split = [Stage(0, int(min(whole, most)))], count, 0
        for epoch in range(min(after) + 1, epochs + 1):
            if epoch - 1 in after:
                left, split = left - dropped(left, self._share), epoch
            first, steps = stages[-1].last, left // self._batch
            if first >= most:
                break
            check_epochs("removal", epoch)
            if not steps:
                raise UserError(
                    f"config.removal leaves {left} pairs after epoch {epoch - 1}, less than "
                    f"config.train.batch_size {self._batch}: name fewer epochs or a smaller share"
                )
            stages.append(Stage(first, int(min(first + steps, most)), epoch, split))
        super().__init__(tuple(stages))

    def decide(
        self, scores: Float64[np.ndarray, " n"], stage: Stage, before: Split | None
    ) -> Split:
        """`chosen`: what stays of the split before."""
        rows = np.arange(len(scores)) if before is None else np.flatnonzero(before["chosen"])
        chosen = np.zeros(len(scores), bool)
        chosen[staying(scores, rows, self._share)] = True
        return {"chosen": chosen}

    def order(self, split: Split, stage: Stage) -> Int64[np.ndarray, " m"]:
        """Each epoch in a new order, cut to whole batches."""
        rng = np.random.default_rng([self._seed, stage.epoch])
        count = (stage.last - stage.first) * self._batch
        return np.resize(rng.permutation(np.flatnonzero(split["chosen"])), count)


def dropped(count: int, share: float) -> int:
    """How many of so many pairs are dropped."""
    return math.floor(share * count + 1e-9)


def staying(
    scores: Float64[np.ndarray, " n"], rows: Int64[np.ndarray, " m"], share: float
) -> Int64[np.ndarray, " k"]:
    """The rows that stay, by falling score; what has none comes last."""
    falling = rows[np.argsort(-scores[rows], kind="stable")]
    return falling[dropped(len(rows), share) :]
