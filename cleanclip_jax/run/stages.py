"""Stages of a run: stretches of steps over the same records, chosen as each begins.

Most runs have one, over all records. Where the model chooses (SafeCLIP, progressive removal), a
rule says where stages begin, which records a split of the scores gives, and in what order.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from cleanclip_jax.errors import UserError

MOST_EPOCHS = 10_000
Split: TypeAlias = dict[str, np.ndarray]  # arrays of a split file


@dataclass(frozen=True)
class Stage:
    """The steps `first` + 1 to `last`.

    Attributes:
      epoch: its first, counted from 1.
      split: the epoch whose split chooses its records, this one's or an earlier one's; 0: all of
        them, in the run's one stream.
    """

    first: int
    last: int
    epoch: int = 1
    split: int = 0


class Rule:
    """How a run's records are chosen: here all of them, in each epoch.

    Attributes:
      stages: from the first step to the last.
      held: steps (from, to) of a constant learning rate, and that; None: there are none.
      columns, numbers: what a split file holds beside scores and `chosen`: float64[n], int64[].
    """

    columns: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    held: tuple[int, int, float] | None = None

    def __init__(self, stages: tuple[Stage, ...]):
        self.stages = stages

    def decide(
        self, scores: Float64[np.ndarray, " n"], stage: Stage, before: Split | None
    ) -> Split:
        """What a split file holds: of scores (cosines of the pairs, NaN where unreadable) and of
        the split before. `chosen` bool[n] is what is safe, or stays."""
        raise NotImplementedError

    def order(self, split: Split, stage: Stage) -> Int64[np.ndarray, " m"]:
        """The records of a stage's steps, batch after batch."""
        raise NotImplementedError

    def resting(self, done: int, stage: Stage, split: Split | None) -> frozenset[str]:
        """The terms that do not count in the step that is number `done`, from 1."""
        return frozenset()


def check_epochs(name: str, epochs: int) -> None:
    """Refuses more epochs than a run may have that begins each with a stage of its own."""
    if epochs > MOST_EPOCHS:
        raise UserError(
            f"config.{name} begins each epoch anew, and {epochs} are more than {MOST_EPOCHS}: "
            "lower config.train.epochs"
        )
