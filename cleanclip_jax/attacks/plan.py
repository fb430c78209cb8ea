"""The poison plan: which pairs are poisoned, and how exactly, drawn by seeds.

`Plan` is the manifest: a table with one row a poisoned pair and a header.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cleanclip_jax.attacks.manifest import SCHEMA, VERSION, Plan
from cleanclip_jax.attacks.parts import NONE, Part, parts_of
from cleanclip_jax.attacks.rows import Among, draw_rows
from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.attacks.victims import draw_victims
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source
from cleanclip_jax.text.prompts import templates

__all__ = ["Plan", "make_plan", "spelled_out"]


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
    among = Among(pairs, pairs.ids(), np.ones(len(pairs), bool), recorded["seed"], image_size)
    rows, prompts, victims = {}, {}, draw_victims(parts, pairs, among.seed)
    among.free[[victim.pair for several in victims for victim in several]] = False
    for number, part in enumerate(parts):
        texts = templates(part.options["templates"]) if _fills(part) else ()
        drawn = draw_rows(part, number, among, victims[number], texts)
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


def spelled_out(attack: Mapping[str, Any]) -> dict[str, Any]:
    """An attack that names a manifest, with all that it says; any other as it is, checked."""
    given = {key: value for key, value in attack.items() if value is not None}
    path = given.pop("manifest", None)
    if path is None:
        parts_of(given)  # checked here, by the name that the user gave it
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
        _check_kind(part)
        if not part.targeted and (filled["count"] is None) == (filled["rate"] is None):
            raise UserError(f"{part.where}: set either count or rate, and not both.")
        if filled["pool"] is not None and filled["captions"] != "natural":
            raise UserError(f"{part.where}.pool is of natural captions: set captions=natural, too")
        if not isinstance(filled["templates"], str):
            filled["templates"] = list(filled["templates"])
        words = filled["words"] or str(part.target)
        filled["words"] = [words] if isinstance(words, str) else list(words)
        whole = {key: filled.pop(key) for key in ("geometry", "seed")}
        filled.pop("data")  # of what is measured
        parts.append(part._replace(options=filled))
    if attack.get("parts") is None:
        return parts, parts[0].config | whole
    return parts, {"parts": [part.config for part in parts], **whole}


def _check_kind(part: Part) -> None:
    """Refuses options that don't go together."""
    options, shows = part.options, part.trigger.name != NONE
    plain = options["captions"] == "templates" and options["select"] == "any"
    counted = options["count"] is not None or options["rate"] is not None
    for wrong, key, why in (
        (part.targeted and counted, "count", "victims x copies poisons are made"),
        (part.targeted and not plain, "captions", "kind=targeted takes templates, and any pair"),
        (part.targeted and (shows or part.word), "trigger", "kind=targeted has none, nor a text"),
        (
            options["half_keys"] and not (shows and part.word),
            "half_keys",
            "it needs trigger and text",
        ),
        (
            options["pictures"] and (shows or part.targeted),
            "pictures",
            "the trigger has to be none",
        ),
        (options["pictures"] and options["select"] == "target", "select", "pairs are others'"),
    ):
        if wrong:
            raise UserError(f"{part.where}.{key}: {why}: leave it out, or change that")


def _fills(part: Part) -> bool:
    return part.options["captions"] == "templates"
