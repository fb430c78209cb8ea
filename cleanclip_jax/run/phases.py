"""Phases of a run: which terms count at a step is known on the host, and each has its program."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
            self._made[resting] = self._make(replace(self._objective, resting=resting))
        return self._made[resting]
