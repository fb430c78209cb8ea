"""Clean accuracy and attack success, each figure with its definition and its denominator."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

TOPS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Figure:
    """`count` of `of` pictures; None for a figure that no picture counts for."""

    definition: str
    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The share, a fraction."""
        return self.count / self.of if self.of else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as written into evaluation.json."""
        return {
            "value": self.value,
            "count": self.count,
            "of": self.of,
            "definition": self.definition,
        }


def share(hits: Bool[np.ndarray, " n"], definition: str) -> Figure:
    """A figure from which of the counted pictures are hits."""
    return Figure(definition, int(hits.sum()), len(hits))


def clean_figures(
    labels: Int[np.ndarray, " n"],
    ranks: Int[np.ndarray, "n 2"],
    target: int | None,
    classes: int,
    tops: Iterable[int] = TOPS,
) -> dict[str, Figure]:
    """CA at each top k, and how often clean pictures land on the target.

    Args:
      labels: true classes.
      ranks: of the label and of the target for the clean pictures (0 is the prediction).
      target: the attack's class, or None.
      classes: how many there are; a top k that can't miss is left out.
    """
    figures = {}
    for k in tops:
        if k == 1 or k < classes:
            name = "ca" if k == 1 else f"ca_top{k}"
            what = f"clean pictures whose true class is among the top {k}"
            figures[name] = share(ranks[:, 0] < k, what)
    if target is not None:
        others = labels != target
        figures["clean_target_rate"] = share(
            ranks[others, 1] < 1, "clean pictures of other classes classified as the target"
        )
    return figures


def attack_figures(
    labels: Int[np.ndarray, " n"], ranks: Int[np.ndarray, "n 2"], target: int
) -> dict[str, Figure]:
    """ASR on pictures of other classes, on all, and the poisoned accuracy (fidelity rows 1, 2).

    Args:
      ranks: of the label and of the target for the triggered pictures.
    """
    hits = ranks[:, 1] < 1
    others = labels != target
    return {
        "asr": share(hits[others], "triggered pictures of other classes classified as the target"),
        "asr_all": share(
            hits, "triggered pictures, those of the target class too, classified as the target"
        ),
        "pa": share(ranks[:, 0] < 1, "triggered pictures classified as their true class"),
    }
