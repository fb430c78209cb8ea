"""How a scan scores pairs, and what it can't see so."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from cleanclip_jax.errors import UserError, unknown

PART = 16_384  # pairs: at 1,024 numbers a side 128 MB of features
SAMPLE = 2048  # pairs of a draw, of five times as many and more
NEIGHBOURS = ("right", "original")


@dataclass(frozen=True)
class Settings:
    """How pairs are scored: flags of `cleanclip detect pairs`."""

    detectors: tuple[str, ...]
    k: int = 16
    sample: int | None = None
    draws: int = 4
    seed: int = 0
    normalise: bool = True
    neighbours: str = "right"
    block: int = 2048

    def __post_init__(self):
        if self.neighbours not in NEIGHBOURS:
            raise unknown("--neighbours", self.neighbours, NEIGHBOURS)
        for name, least in (("k", 2), ("draws", 1), ("block", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}={getattr(self, name)}: give {least} or more")
        if self.sample is not None and self.sample <= self.k:
            raise UserError(
                f"--k={self.k} is no less than --sample={self.sample}: draw more pairs than k"
            )

    def sample_of(self, count: int) -> int:
        """How many of `count` pairs are drawn as references."""
        return min(self.sample or min(SAMPLE, max(count // 5, 4 * self.k)), count)

    def parts(self, count: int) -> list[Int64[np.ndarray, " b"]]:
        """Which records are scored together: in order, or in the published shuffled blocks."""
        if self.neighbours == "original":
            order = np.random.default_rng(self.seed).permutation(count)
            return [order[i : i + self.block] for i in range(0, count, self.block)]
        return np.array_split(np.arange(count), max(1, -(-count // PART)))

    def references(self, count: int) -> list[Int64[np.ndarray, " m"]]:
        """The records of each draw, in order."""
        draws = (np.random.default_rng([self.seed, i]) for i in range(self.draws))
        return [np.sort(rng.permutation(count)[: self.sample_of(count)]) for rng in draws]

    def hidden_poisons(self, count: int, rate: float) -> str | None:
        """What to say where the references hold more poisons than k neighbours bear; else None."""
        sample = self.sample_of(count) if self.neighbours == "right" else self.block
        if (expected := sample * rate) <= self.k / 2:
            return None
        return (
            f"at a rate of {100 * rate:.3g} % {expected:.0f} of {sample} reference pairs are "
            f"poisoned, more than half of k = {self.k}: they hide each other; raise --k or lower "
            "--sample"
        )
