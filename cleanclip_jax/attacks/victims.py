"""Targeted poisoning: the pictures that are to be taken for another class (arXiv 2106.09667)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cleanclip_jax.attacks.pairs import readable
from cleanclip_jax.attacks.parts import Part
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source

RANDOM = "random"  # as a target: another class for each victim, drawn by the seed
# Keeps the draws of victims and their targets apart from a plan's others.
_VICTIM = 0x56494354


class Victim(NamedTuple):
    """A picture, by the position of its pair; its class, and that which it is to be taken for."""

    pair: int
    label: str
    target: str
    digest: str  # of its picture's bytes


def draw_victims(parts: Sequence[Part], pairs: Source, seed: int) -> list[list[Victim]]:
    """Each part's victims, in the order of their indices; [] of a part that has none.

    No two parts share one, and none is of its target's class.

    Args:
      pairs: the whole that the attack is planned on.
      seed: the attack's.
    """
    victims, taken = [], np.zeros(len(pairs), bool)
    for number, part in enumerate(parts):
        victims.append(_of_part(part, number, pairs, seed, taken) if part.targeted else [])
        taken[[victim.pair for victim in victims[-1]]] = True
    return victims


def _of_part(
    part: Part, number: int, pairs: Source, seed: int, taken: Bool[np.ndarray, " n"]
) -> list[Victim]:
    names, wanted = pairs.class_names or (), part.options["victims"]
    labels = pairs.labels()
    if not (labels >= 0).any():
        raise UserError(
            f"{part.where}.kind: victims are drawn among pairs that have a class, and "
            "config.data.train has none: name the column of its classes"
        )
    if part.target != RANDOM and part.target not in names:
        raise UserError(
            f"{part.where}.target: {part.target!r} is no class of config.data.train: name one, or "
            f"{RANDOM!r}"
        )
    drawn = np.random.default_rng([seed, _VICTIM, number]).permutation(len(pairs))
    others = [i for i, name in enumerate(names) if name != part.target]
    drawn = drawn[np.isin(labels[drawn], others) & ~taken[drawn]]
    digests = readable(pairs, drawn, wanted)
    if len(digests) < wanted or len(names) < 2:
        raise UserError(
            f"{part.where}.victims: {wanted} are to be drawn, and of {len(pairs)} pairs "
            f"{len(drawn)} have another class than the target, {len(digests)} of them readable; "
            "set fewer."
        )
    victims = []
    for index in sorted(digests):
        label = int(labels[index])
        other = int(np.random.default_rng([seed, _VICTIM, number, index]).integers(len(names) - 1))
        target = names[other + (other >= label)] if part.target == RANDOM else str(part.target)
        victims.append(Victim(index, names[label], target, digests[index]))
    return victims
