"""Where the steps of a run's checkpoints lie: each a folder, on this disk or brought to it."""

import logging
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.digests import damage

log = logging.getLogger(__name__)


class Steps:
    """The steps in `folder`, here on a disk; `here` is where Orbax reads and writes them."""

    def __init__(self, folder: Path):
        self.folder = self.here = folder.absolute()

    def steps(self) -> list[int]:
        """The steps that lie there, ascending, damaged ones too."""
        names = [path.name for path in self.here.iterdir()] if self.here.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def fetch(self, step: int) -> Path:
        """Brings a step here; returns its folder here, which is absent if the step has gone."""
        return self.here / str(step)

    def part(self, tree: Any) -> Any:
        """What this process hands to Orbax of a tree that all processes hold."""
        return tree

    def newest_whole(self, steps: list[int]) -> int | None:
        """The newest of these steps that is whole; None: there is none.

        If there are some and all are damaged, that is a UserError.
        """
        bad: dict[int, str] = {}
        newest = None
        for step in reversed(steps):
            problem = damage(self.fetch(step))
            if problem is None:
                newest = step
                break
            # A run that is training may have deleted it in the meantime.
            if self.fetch(step).is_dir():
                bad[step] = problem
        if bad and newest is None:
            reasons = "; ".join(f"{step}: {problem}" for step, problem in bad.items())
            raise UserError(
                f"{self.folder}: no checkpoint is whole ({reasons}): put one back from a copy, or "
                "move the folder away to begin anew"
            )
        for step, problem in bad.items():
            log.warning(
                "%s is damaged (%s): step %d is used instead",
                self.folder / str(step),
                problem,
                newest,
            )
        return newest

    def put(self, step: int, keep: int) -> None:
        """Takes a step that is finished here, and keeps the newest so many. All processes call."""

    def move_aside(self, step: int) -> None:
        """Moves a damaged step to WORKDIR/damaged, where nothing is written over."""
        place = self._aside(step)
        place.parent.mkdir(exist_ok=True)
        (self.here / str(step)).rename(place)

    def close(self) -> None:
        """Removes what was brought here."""

    def _aside(self, step: int) -> Path:
        home = self.folder.parent / "damaged"
        taken = {path.name for path in home.iterdir()} if home.is_dir() else set()
        names = [str(step), *(f"{step}.{i}" for i in range(1, len(taken) + 1))]
        place = home / next(name for name in names if name not in taken)
        log.warning("the damaged checkpoint of step %s now lies in %s", step, place)
        return place
