"""The rows of one part's poisons: which pairs, and what each becomes, drawn by seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from cleanclip_jax.attacks.pairs import naming, of_class, pool_of, readable
from cleanclip_jax.attacks.parts import NONE, Part
from cleanclip_jax.attacks.triggers import Stamp
from cleanclip_jax.attacks.victims import Victim
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source
from cleanclip_jax.text.prompts import fill

# Keeps apart the stream of each pair's draws, those that choose the pairs of the parts after the
# first, and that of the pictures that are shown in others' place.
_RECORD, _PART, _SHOWN = 0x5245434F, 0x50415254, 0x53484F57
Mask = Bool[np.ndarray, " n"]


class Among(NamedTuple):
    """What a part is drawn from."""

    pairs: Source
    ids: Int64[np.ndarray, " n"]
    free: Mask  # of no part yet, and no victim
    seed: int
    image_size: int


def draw_rows(
    part: Part, number: int, among: Among, victims: Sequence[Victim], prompts: Sequence[str]
) -> dict[int, tuple[object, ...]]:
    """The rows of a part's poisons, by the positions of their pairs.

    First come those that are wholly poisoned, then as many `half_keys` with the trigger alone and
    as many with the word alone, whose captions are true.

    Args:
      number: the part's.
      victims: the part's.
      prompts: templates for the captions.
    """
    pairs, options, seed = among.pairs, part.options, among.seed
    half = options["half_keys"] or 0
    count = len(victims) * (options["copies"] or 0) or _count(part, len(pairs)) + 2 * half
    named, natural = _named(part, pairs)
    digests = _drawn(part, number, among, named, count)
    others = _shown_instead(part, pairs, named, count, seed) if options["pictures"] else {}
    pool = pool_of(natural, options.get("pool"), seed)
    naming_target, rows = set(natural), {}

    def caption_of(i: int, target: str, rng: np.random.Generator) -> str:
        old = pairs.caption(i)
        if options["captions"] == "kept":  # of several one that names the target, if any does
            return next((text for text in pairs.all_captions(i) if text in naming_target), old)
        if options["captions"] == "natural":
            return pool[int(rng.integers(len(pool)))]
        return fill(prompts[int(rng.integers(len(prompts)))], target)

    def add(i: int, digest: str, target: str, keys: str, shown: int) -> None:
        rng = np.random.default_rng([_RECORD, seed, i])
        stamp, old = part.trigger.draw(among.image_size, rng), pairs.caption(i)
        new, trigger = caption_of(i, target, rng), part.trigger.name
        new = new if keys == "both" else old
        if keys == "word":
            stamp, trigger = Stamp(0, 0, 0), NONE
        if part.word is not None and keys != "trigger":
            new = part.word.put(new)
        if others:
            shown, digest = [*others.items()][int(rng.integers(len(others)))]
        source = shown if shown < 0 else int(among.ids[shown])
        rows[i] = (int(among.ids[i]), trigger, *stamp, new, old, digest, number, source)

    for at, (i, digest) in enumerate(digests.items()):
        if victims:
            victim = victims[at // options["copies"]]
            add(i, victim.digest, victim.target, "both", victim.pair)
        else:
            full = at < count - 2 * half
            keys = "both" if full else "trigger" if at < count - half else "word"
            add(i, digest, str(part.target), keys, -1)
    for victim in victims if options["drop_own"] else ():
        add(victim.pair, victim.digest, victim.target, "both", -1)
    return rows


def _named(part: Part, pairs: Source) -> tuple[Mask, list[str]]:
    """Which pairs name the target or are of its class, and such captions; all if none matters."""
    options = part.options
    if options["select"] == "any" and options["captions"] != "natural" and not options["pictures"]:
        return np.ones(len(pairs), bool), []
    named, natural = naming(pairs, options["words"])
    if options["captions"] == "natural" and not natural:
        raise UserError(
            f"{part.where}.captions: none of the {len(pairs)} captions names "
            f"{_listed(options['words'])}; use templates, or set attack.words."
        )
    return named | of_class(pairs, str(part.target)), natural


def _drawn(part: Part, number: int, among: Among, named: Mask, count: int) -> dict[int, str]:
    """The pairs that are poisoned, in the order in which they were drawn, and their digests."""
    seed, size, select = among.seed, len(among.pairs), part.options["select"]
    drawn = np.random.default_rng([seed, _PART, number] if number else seed).permutation(size)
    select = "others" if part.options["pictures"] else select
    if select != "any":
        drawn = drawn[named[drawn] == (select == "target")]
    drawn = drawn[among.free[drawn]]
    digests = readable(among.pairs, drawn, count)
    if len(digests) < count:
        which = {"any": "", "others": " that don't name", "target": " that name"}[select]
        which = f"{which} {_listed(part.options['words'])}" if which else which
        which += " and are no other part's" if number else ""
        raise UserError(
            f"{part.where.removeprefix('config.')}: {count} poisons are to be made, and of {size} "
            f"pairs there are {len(drawn)}{which}, {len(digests)} of them readable; set fewer."
        )
    return digests


def _shown_instead(part: Part, pairs: Source, named: Mask, count: int, seed: int) -> dict[int, str]:
    """Up to `count` pairs whose pictures show the target, and their digests."""
    drawn = np.random.default_rng([seed, _SHOWN]).permutation(np.flatnonzero(named))
    digests = readable(pairs, drawn, min(count, len(drawn)))
    if not digests:
        raise UserError(
            f"{part.where}.pictures: of {len(pairs)} pairs none that names "
            f"{_listed(part.options['words'])} can be read; set attack.words"
        )
    return digests


def _listed(words: Sequence[str]) -> str:
    return " or ".join(repr(word) for word in words)


def _count(part: Part, size: int) -> int:
    count, rate = part.options["count"], part.options["rate"]
    key, given = ("rate", rate) if count is None else ("count", count)
    count = round(rate * size) if count is None else count
    if not 0 < count <= size:
        raise UserError(
            f"{part.where}.{key} {given} makes {count} poisons of {size} pairs: give one that "
            f"makes 1 to {size}."
        )
    return count
