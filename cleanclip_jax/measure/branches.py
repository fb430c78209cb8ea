"""Whose tower holds a backdoor: two models' towers swapped (DIFE, arXiv 2606.17815)."""

from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figures
from cleanclip_jax.measure.ranks import Classifier

WEAK = 0.05  # a signal below it says nothing
FOOTPRINT, AHEAD = 0.70, 0.20  # what a score has to pass, and how far the others stay behind
SCORES = ("vrs", "trs", "css")


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


def check_branches(
    settings: ConfigDict, encoder: Encoder, head: Classifier | None, floor: Encoder
) -> None:
    """Refuses to swap towers where there is nothing to swap, or to swap with."""
    where = "config.evaluation.branches swaps towers"
    if settings.attack is None or not settings.data:
        raise UserError(f"{where} under an attack: set config.evaluation.attack and .data")
    if head is not None:
        raise UserError(f"{where}, and this run's head takes the place of one: leave it out")
    if floor.model.variant != encoder.model.variant:
        raise UserError(f"{where} of two models of one architecture: name a floor of this one's")


def swap(
    clean: Figures, image: Figures, text: Figures, both: Figures
) -> tuple[Figures, dict[str, Any]]:
    """The ASR of swapped towers as figures, and what they say, by the name of each ASR.

    Args:
      clean, image, text, both: of `footprint`, each all figures of a set.
    """
    figures, scores = {}, {}
    for name in [name for name in both if name.partition(".")[0] == "asr"]:  # one of each part
        values = [of[name].value for of in (clean, image, text, both)]
        known = [value for value in values if value is not None]
        scores[name] = footprint(*known) if len(known) == len(values) else None
        for tower, of in (("image", image), ("text", text)):
            what = f"the model's {tower} tower, the floor's other one: {of[name].definition}"
            figures[f"{tower}_tower_{name}"] = replace(of[name], definition=what)
    return figures, scores
