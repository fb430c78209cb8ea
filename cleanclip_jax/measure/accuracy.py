"""Clean accuracy and attack success at each top k, from the ranks of label and target."""

import numpy as np
from jaxtyping import Int

from cleanclip_jax.measure.estimates import Figures, share

TOPS = (1, 3, 5, 10)


def clean_figures(
    labels: Int[np.ndarray, " n"],
    ranks: Int[np.ndarray, "n 2"],
    target: int | None,
    classes: int,
) -> Figures:
    """CA, and how often clean pictures land on the target.

    Args:
      labels: true classes.
      ranks: of the label and of the target for the clean pictures (0 is the prediction).
      target: the attack's class, or None.
      classes: how many there are; a top k that can't miss is left out.
    """
    figures = _at_tops("ca", ranks[:, 0], "clean pictures whose true class", classes)
    if target is not None:
        what = "clean pictures of other classes for which the target"
        figures |= _at_tops("clean_target_rate", ranks[labels != target, 1], what, classes)
    return figures


def attack_figures(
    labels: Int[np.ndarray, " n"], ranks: Int[np.ndarray, "n 2"], target: int, classes: int
) -> Figures:
    """ASR on pictures of other classes, on all, and the poisoned accuracy.

    docs/fidelity.md: "poisoned accuracy", "target class left out".

    Args:
      ranks: of the label and of the target for the triggered pictures.
    """
    others = "triggered pictures of other classes for which the target"
    every = "triggered pictures, those of the target class too, for which the target"
    return {
        **_at_tops("asr", ranks[labels != target, 1], others, classes),
        **_at_tops("asr_all", ranks[:, 1], every, classes),
        **_at_tops("pa", ranks[:, 0], "triggered pictures whose true class", classes),
    }


def _at_tops(name: str, ranks: Int[np.ndarray, " n"], what: str, classes: int) -> Figures:
    """The figure, and as `_top3` and so on what is among the first few."""
    figures = {name: share(ranks < 1, f"{what} comes first")}
    for k in TOPS[1:]:
        if k < classes:
            figures[f"{name}_top{k}"] = share(ranks < k, f"{what} is among the top {k}")
    return figures
