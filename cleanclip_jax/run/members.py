"""Several runs trained to their ends."""

from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.run.build import build
from cleanclip_jax.run.group import groups_of, train_group
from cleanclip_jax.run.loop import train


def train_members(runs: Mapping[Path, ConfigDict], together: bool = False) -> dict[Path, UserError]:
    """Trains each run, {workdir: its config}, to its last step; what was done before is kept.

    Args:
      together: those that differ in their optimizers alone share a stream of batches (run.group);
        which pays where reading pictures takes longer than the step.

    Returns:
      The failures by workdir; the other runs are whole. With several processes a failure is raised,
      since the others may be elsewhere in the run.
    """
    failures: dict[Path, UserError] = {}
    for group in groups_of(runs) if together else [{path: runs[path]} for path in runs]:
        if len(group) > 1:
            failures |= train_group(group)
            continue
        [(path, config)] = group.items()
        try:
            with build(config, path) as run:
                train(run)
        except UserError as error:
            if jax.process_count() > 1:
                raise
            failures[path] = error
    return failures
