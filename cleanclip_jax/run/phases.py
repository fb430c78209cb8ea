"""What is known on the host of a run's steps: their records' rule, and which terms count."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.process import in_turn
from cleanclip_jax.run.stages import Rule, Stage
from cleanclip_jax.run.state import Objective


class Steps:
    """Gives the step that is compiled for the phase that a step lies in.

    Not branched inside the step: a conditional would make a device wait for its host, and keep the
    activations of every branch.

    Args:
      make: makes the jitted step of an objective.
      epoch: steps of an epoch.
    """

    def __init__(self, make: Callable[[Objective], Any], objective: Objective, epoch: int):
        self._make, self._objective, self._epoch = make, objective, epoch
        self._made: dict[frozenset[str], Any] = {}
        self(1)  # refuses what can't be made

    def __call__(self, done: int, also: frozenset[str] = frozenset()) -> Any:
        """(state, fixed, batch) to (state, metrics), for the step that is number `done` from 1.

        Args:
          also: terms that rest beside those whose epoch it is to rest.
        """
        resting = self._objective.resting_in((done - 1) // self._epoch + 1) | also
        if resting not in self._made:
            self._made[resting] = in_turn(self._make(replace(self._objective, resting=resting)))
        return self._made[resting]


def rule_of(config: ConfigDict, objective: Objective, count: int) -> Rule:
    """The rule of a config, for so many records."""
    if config.safe is not None and config.removal is not None:
        raise UserError("config.safe and config.removal both choose the pairs: give one of them")
    if config.safe is not None:
        from cleanclip_jax.run.safe import Safe

        return Safe(config, objective, count)
    if config.removal is not None:
        from cleanclip_jax.run.removal import Removal

        return Removal(config, count)
    train = config.train
    return Rule((Stage(0, train.steps or train.epochs * (count // train.batch_size)),))
