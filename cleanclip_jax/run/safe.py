"""SafeCLIP's rule (arXiv 2310.05862): each epoch first the risky pairs, then the safe ones."""

import math

import numpy as np
from jaxtyping import Float64, Int64
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.gaussians import two_gaussians
from cleanclip_jax.run.stages import Rule, Split, Stage, check_epochs
from cleanclip_jax.run.state import Objective

IN_MODAL, CROSS = "nearest_in_modal", "crossed"
RISKY, SAFE = 0, 1  # of the seeds of their orders


class Safe(Rule):
    """In-modal epochs and cross-modal ones on all pairs; then each epoch is split by the scores.

    An epoch has ⌊N/b⌋ steps, ⌊safe/b⌋ of them on the safe pairs, so that the length of the run is
    known at its start and the learning rate is one schedule over it.
    """

    columns, numbers = ("probability",), ("base",)

    def __init__(self, config: ConfigDict, objective: Objective, count: int):
        settings = config.safe
        lacking = {IN_MODAL, CROSS} - objective.terms.keys()
        if lacking:
            raise UserError(
                f"config.safe trains by {IN_MODAL} and {CROSS} in turn: give "
                f"config.objective.{min(lacking)} a weight"
            )
        self._settings, self._seed, self._batch = settings, config.seed, config.train.batch_size
        self._epoch = epoch = count // self._batch
        warm, cross = settings["warm_in_modal"], settings["warm_cross"]
        self._warm, self._first = warm * epoch, warm + cross + 1  # the first epoch with a split
        steps = config.train.steps or config.train.epochs * epoch
        check_epochs("safe", -(-steps // epoch))
        split = min((warm + cross) * epoch, steps)
        stages = [Stage(0, split)] if split else []
        for first in range(split, steps, epoch):
            number = first // epoch + 1
            stages.append(Stage(first, min(first + epoch, steps), number, number))
        super().__init__(tuple(stages))
        if cross:
            self.held = (min(self._warm, steps), split, settings["warm_cross_rate"])

    def decide(
        self, scores: Float64[np.ndarray, " n"], stage: Stage, before: Split | None
    ) -> Split:
        """`probability` of being safe, NaN where unreadable; `chosen`; `base`, the first's count.

        The first split takes the pairs whose probability reaches the threshold; after that the
        count grows by a share of all pairs an epoch, up to a cap.
        """
        s, readable = self._settings, np.flatnonzero(np.isfinite(scores))
        if len(readable) < 2:
            raise UserError("config.safe splits the pairs by their scores, and takes two or more")
        probability = np.full(len(scores), np.nan)
        probability[readable] = safe_probability(scores[readable], s["order"])
        if before is None:
            with np.errstate(invalid="ignore"):
                chosen = probability >= s["threshold"]
            return {"probability": probability, "chosen": chosen, "base": np.array(chosen.sum())}
        base, epochs = int(before["base"]), stage.epoch - self._first
        count = next_count(base, epochs, len(readable), s["grow"], s["cap"])
        ranked = readable[np.lexsort((-scores[readable], -probability[readable]))]
        chosen = np.zeros(len(scores), bool)
        chosen[ranked[:count]] = True
        return {"probability": probability, "chosen": chosen, "base": np.array(base)}

    def _risky_steps(self, split: Split) -> int:
        return self._epoch - int(split["chosen"].sum()) // self._batch

    def order(self, split: Split, stage: Stage) -> Int64[np.ndarray, " m"]:
        """Risky pairs, some of them twice where they do not fill their batches; then safe ones."""
        chosen, readable = split["chosen"], np.isfinite(split["probability"])
        safe, risky = np.flatnonzero(chosen), np.flatnonzero(readable & ~chosen)
        steps = self._risky_steps(split)

        def shuffled(rows: np.ndarray, kind: int, count: int) -> np.ndarray:
            rng = np.random.default_rng([self._seed, stage.epoch, kind])
            return np.resize(rng.permutation(rows), count * self._batch)

        first = shuffled(risky if len(risky) else safe, RISKY, steps)
        return np.concatenate([first, shuffled(safe, SAFE, self._epoch - steps)])

    def resting(self, done: int, stage: Stage, split: Split | None) -> frozenset[str]:
        if split is None:
            return frozenset({CROSS if done <= self._warm else IN_MODAL})
        risky = done <= stage.first + self._risky_steps(split)
        return frozenset({CROSS if risky else IN_MODAL})


def safe_probability(scores: Float64[np.ndarray, " n"], order: str) -> Float64[np.ndarray, " n"]:
    """The probability of the mixture's component of larger mean.

    Where that is the wider one, its far left tail has a probability of 1 as well: so it is 0 below
    the smaller mean, but with the order 'probability', the published code's.
    """
    fitted = two_gaussians(scores)
    if order == "probability":
        return fitted.probability
    return np.where(scores < fitted.means[0], 0.0, fitted.probability)


def next_count(base: int, epochs: int, count: int, grow: float, cap: float) -> int:
    """How many of `count` pairs are safe, `epochs` after the first split, which had `base`."""
    # Whole pairs: the published code's float32 shares lose one now and then.
    return min(base + math.floor(epochs * grow * count + 1e-6), math.floor(cap * count + 1e-6))
