"""The poison plan: which pairs are poisoned, and how exactly, drawn by seeds.

`Plan` is the manifest: a table with one row a poisoned pair and a header.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from cleanclip_jax.attacks.manifest import SCHEMA, VERSION, Plan
from cleanclip_jax.attacks.pairs import naming, of_class, readable
from cleanclip_jax.attacks.parts import Part, parts_of
from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source
from cleanclip_jax.text.prompts import fill, templates

__all__ = ["Plan", "make_plan", "spelled_out"]

# Keeps the stream of each pair's draws apart from the one that chooses the pairs, and those of the
# parts after the first apart from each other.
_RECORD, _PART = 0x5245434F, 0x50415254


class _Pairs(NamedTuple):
    """What a part is drawn from."""

    pairs: Source
    ids: Int64[np.ndarray, " n"]
    free: Bool[np.ndarray, " n"]  # of no part yet
    seed: int
    image_size: int


def make_plan(attack: Mapping[str, Any], source: Source, image_size: int) -> Plan:
    """Draws a plan, or reads its manifest: the same inputs give the same plan.

    Pairs are drawn uniformly, and with one seed a larger count poisons the pairs of a smaller one
    and more, each in the same way. A pair that can't be read is passed over: the next that was
    drawn takes its place. Of several parts each draws among those that the parts before left. Of a
    filtered source the whole is poisoned and then filtered, so that its poisons are those of the
    whole, without the pairs that were left out.

    Args:
      attack: config.attack (docs/attacks.md); `manifest` is a file that `save` wrote.
      image_size: side of the pictures that the trigger is put on, in pixels.
    """
    if attack.get("manifest") is not None:
        plan = Plan.load(attack["manifest"], source)
        spelled_out(attack)
        if plan.header["image_size"] != image_size:
            raise UserError(
                f"{attack['manifest']}: the plan is for pictures of {plan.header['image_size']} "
                f"pixels, not {image_size}; make one for this size."
            )
        return plan
    parts, recorded = _checked(attack)
    pairs = source.unfiltered()
    among = _Pairs(pairs, pairs.ids(), np.ones(len(pairs), bool), recorded["seed"], image_size)
    rows, prompts = {}, {}
    for number, part in enumerate(parts):
        texts = templates(part.options["templates"]) if _fills(part) else ()
        drawn = _draw(part, number, among, texts)
        rows, prompts = rows | drawn, prompts | dict.fromkeys(texts)
        among.free[list(drawn)] = False
    columns = [list(column) for column in zip(*(rows[i] for i in sorted(rows)), strict=True)]
    header = {
        "version": VERSION,
        "fingerprint": pairs.root().fingerprint,
        "size": len(pairs.root()),
        "image_size": image_size,
        "attack": recorded,
        "templates": list(prompts),
    }
    # Through JSON, so that a plan just made equals the same plan read from its file.
    return Plan(pa.table(columns, schema=SCHEMA), json.loads(json.dumps(header))).on(source)


def _draw(part: Part, number: int, among: _Pairs, prompts: Sequence[str]) -> dict[int, tuple]:
    """The rows of a part's poisons, by the positions of their pairs."""
    pairs, options, seed = among.pairs, part.options, among.seed
    count, size = _count(part, len(pairs)), len(pairs)
    named, natural = np.ones(size, bool), []
    if options["select"] != "any" or options["captions"] == "natural":
        named, natural = naming(pairs, options["words"])
    if options["captions"] == "natural" and not natural:
        raise UserError(
            f"{part.where}.captions: none of the {size} captions names "
            f"{_listed(options['words'])}; use templates, or set attack.words."
        )
    drawn = np.random.default_rng([seed, _PART, number] if number else seed).permutation(size)
    if options["select"] != "any":
        named |= of_class(pairs, str(part.target))
        drawn = drawn[named[drawn] == (options["select"] == "target")]
    drawn = drawn[among.free[drawn]]
    digests = readable(pairs, drawn, count)
    if len(digests) < count:
        which = {"any": "", "others": " that don't name", "target": " that name"}[options["select"]]
        which = f"{which} {_listed(options['words'])}" if which else which
        which += " and are no other part's" if number else ""
        raise UserError(
            f"{part.where.removeprefix('config.')}: {count} poisons are to be made, and of {size} "
            f"pairs there are {len(drawn)}{which}, {len(digests)} of them readable; set fewer."
        )
    rows, naming_target = {}, set(natural)
    for i, digest in digests.items():
        rng = np.random.default_rng([_RECORD, seed, i])
        stamp, old = part.trigger.draw(among.image_size, rng), pairs.caption(i)
        if options["captions"] == "kept":  # of several one that names the target, if any does
            new = next((text for text in pairs.all_captions(i) if text in naming_target), old)
        elif options["captions"] == "natural":
            new = natural[rng.integers(len(natural))]
        else:
            new = fill(prompts[rng.integers(len(prompts))], str(part.target))
        new = new if part.word is None else part.word.put(new)
        rows[i] = (int(among.ids[i]), part.trigger.name, *stamp, new, old, digest, number, -1)
    return rows


def spelled_out(attack: Mapping[str, Any]) -> dict[str, Any]:
    """An attack that names a manifest, with all that the manifest says; any other as it is."""
    given = {key: value for key, value in attack.items() if value is not None}
    path = given.pop("manifest", None)
    if path is None:
        return given
    recorded = Plan.load(path).header["attack"]
    for key, value in given.items():
        ours = make_trigger(value).config if key == "trigger" else value
        if key == "parts":
            ours = _checked(given)[1]["parts"]
        ours = json.loads(json.dumps(ours))
        if ours != recorded.get(key):
            raise UserError(
                f"config.attack.{key}: {ours!r} is not the manifest's, {recorded.get(key)!r} in "
                f"{path}; leave it out, or make the plan again."
            )
    return {**recorded, "manifest": path}


def _checked(attack: Mapping[str, Any]) -> tuple[list[Part], dict[str, Any]]:
    """The attack's parts, checked; and what a manifest records of it."""
    parts, whole = [], {}
    for part in parts_of(attack):
        filled = dict(part.options)
        if (filled["count"] is None) == (filled["rate"] is None):
            raise UserError(f"{part.where}: set either count or rate, and not both.")
        if not isinstance(filled["templates"], str):
            filled["templates"] = list(filled["templates"])
        words = filled["words"] or part.target
        filled["words"] = [words] if isinstance(words, str) else list(words)
        whole = {key: filled.pop(key) for key in ("geometry", "seed")}
        parts.append(part._replace(options=filled))
    if attack.get("parts") is None:
        return parts, parts[0].config | whole
    return parts, {"parts": [part.config for part in parts], **whole}


def _fills(part: Part) -> bool:
    return part.options["captions"] == "templates"


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
