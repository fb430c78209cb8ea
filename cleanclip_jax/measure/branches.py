"""Whose tower holds a backdoor: two models' towers swapped (DIFE, arXiv 2606.17815)."""

from collections.abc import Mapping
from typing import Any

WEAK = 0.05  # a signal below it says nothing
FOOTPRINT, AHEAD = 0.70, 0.20  # what a score has to pass, and how far the others stay behind
SCORES = {"vrs": "the image tower", "trs": "the text tower", "css": "both towers together"}


def footprint(clean: float, image: float, text: float, both: float) -> dict[str, Any]:
    """Scores of the attack's success with each tower of the poisoned or the clean model.

    Args:
      clean, both: both towers of the clean model, of the poisoned one.
      image, text: the poisoned model's image tower, or text tower, beside the clean one's other.

    Returns:
      `signal`; `vrs` of the image tower, `trs` of the text tower, `css` of what only both do, as
      shares of it; `holder` of `SCORES`, or None: mixed. All but the first are None where it is
      weak.

    >>> scores = footprint(0.0992, 0.9993, 0.0994, 0.9994)
    >>> [round(scores[name], 4) for name in SCORES], scores["holder"]
    ([0.9999, 0.0002, 0.0001], 'vrs')
    """
    signal = both - clean
    if abs(signal) < WEAK:
        return {"signal": signal, **dict.fromkeys(SCORES), "holder": None}
    shares = (image - clean, text - clean, both - max(image, text))
    scores = {name: x / (signal + 1e-8) for name, x in zip(SCORES, shares, strict=True)}
    *_, second, first = sorted(scores, key=lambda name: scores[name])
    holds = scores[first] > FOOTPRINT and scores[first] - scores[second] >= AHEAD
    return {"signal": signal, **scores, "holder": first if holds else None}


def in_words(facts: Mapping[str, Any]) -> str:
    """A line for a terminal."""
    if facts["vrs"] is None:
        return f"signal {facts['signal']:.3f}: too weak to say whose tower holds the backdoor"
    scores = ", ".join(f"{name.upper()} {facts[name]:.3f}" for name in SCORES)
    holder = SCORES.get(facts["holder"], "no tower")
    return f"{scores}: {holder} clearly holds the backdoor"
