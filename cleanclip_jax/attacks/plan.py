"""The poison plan: which pairs are poisoned, and how exactly.

A plan is a table with one row a poisoned pair and a header. The pipeline applies it on the fly,
evaluation replays its trigger, and a detector's scores are joined to it by the records' ids.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from cleanclip_jax.attacks.pairs import Poison, naming, of_class, pool_of, readable
from cleanclip_jax.attacks.triggers import Stamp, Trigger, make_trigger
from cleanclip_jax.config import keys_of
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import written_whole
from cleanclip_jax.keys import take
from cleanclip_jax.parquet import read_table
from cleanclip_jax.record import Source
from cleanclip_jax.shapes import parse_json
from cleanclip_jax.text.prompts import fill, templates
from cleanclip_jax.workdir import workdir_path

log = logging.getLogger(__name__)

VERSION = 2
_HEADER = b"cleanclip_plan"
_SHAPE = {"version": {VERSION}, "fingerprint": str, "size": int, "image_size": int}
_SHAPE |= {"attack": {"target": str, "geometry": str, "trigger": {}}, "templates": [str]}
_SCHEMA = pa.schema(
    {
        "index": pa.int64(),
        "trigger": pa.string(),
        "row": pa.int32(),
        "col": pa.int32(),
        "seed": pa.int64(),
        "caption": pa.string(),
        "original_caption": pa.string(),
        "digest": pa.string(),
    }
)

# Keeps the stream of each pair's draws apart from the one that chooses the pairs.
_RECORD = 0x5245434F


@dataclass(frozen=True)
class Plan:
    """A poison plan: `table` in the order of its column `index`, and its `header`.

    The header holds version, fingerprint (of the dataset), size (pairs in the dataset),
    image_size (pixels), attack (every option spelled out) and the texts of the templates. In the
    table, index is the pair's id in that dataset; row and col of -1 mean all four corners; digest
    is that of the picture's bytes.
    """

    table: pa.Table
    header: Mapping[str, Any]
    # Of a plan for a part of its dataset: the part's fingerprint, the indices in it of the poisons
    # that it has, and their rows in the table.
    _part: tuple[str, np.ndarray, np.ndarray] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def index(self) -> Int64[np.ndarray, " n"]:
        """Which pairs of the source that the plan is for are poisoned: ascending, each once."""
        return self.table["index"].to_numpy() if self._part is None else self._part[1]

    @cached_property
    def trigger(self) -> Trigger:
        """The trigger that every row applies; a UserError where a row is none of its stamps."""
        made = make_trigger(self.header["attack"]["trigger"])
        side, columns = self.header["image_size"], ("row", "col", "seed")
        stamps = np.stack([self.table[name].to_numpy().astype(np.int64) for name in columns], 1)
        wrong = ~made.fits(side, stamps) | (np.array(self.table["trigger"]) != made.name)
        if wrong.any():
            row = self.table.slice(int(wrong.argmax()), 1).to_pylist()[0]
            raise UserError(
                f"the poison plan is damaged: its row of pair {row['index']} is no {made.name} on "
                f"a picture of {side} pixels; make the plan again."
            )
        return made

    @cached_property
    def digest(self) -> str:
        """A sha256 over the whole plan."""
        content = json.dumps([dict(self.header), self.table.to_pydict()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def target(self) -> str:
        """The class name that poisoned captions name."""
        return self.header["attack"]["target"]

    @property
    def geometry(self) -> str:
        """How poisoned pictures come to their size: "crop", or "squash" as in the original."""
        return self.header["attack"]["geometry"]

    def poison_at(self, index: int) -> Poison | None:
        """Returns how pair `index` is poisoned, or None if it is clean."""
        at = int(np.searchsorted(self.index, index))
        if at == len(self) or self.index[at] != index:
            return None
        at = at if self._part is None else int(self._part[2][at])
        row, col, seed, caption, digest = (
            self.table[name][at].as_py() for name in ("row", "col", "seed", "caption", "digest")
        )
        return Poison(Stamp(row, col, seed), caption, digest)

    def on(self, source: Source, name: str = "attack") -> "Plan":
        """The plan for `source`, which is its dataset or a part of it: poisons are found by id.

        Args:
          name: what has the plan, as the error for a source of another dataset says.
        """
        planned = self.header["fingerprint"]
        if self._part is not None and self._part[0] == source.fingerprint:
            return self
        for whole in (source, source.unfiltered(), source.root()):
            if whole.fingerprint == planned and len(whole) == self.header["size"]:
                break
        else:
            raise UserError(
                f"{name}: the plan was made for dataset {planned[:12]}, and this is another "
                f"dataset, {source.fingerprint[:12]}; use that one, or make a plan for this one."
            )
        if whole is source:
            return self
        poisons = whole.ids()[self.table["index"].to_numpy()]
        rows = np.flatnonzero(np.isin(poisons, source.ids()))
        log.info(
            "%d of the plan's %d poisons are among the data, and %d were filtered out",
            *(len(rows), len(poisons), len(poisons) - len(rows)),
        )
        index = np.searchsorted(source.ids(), poisons[rows])
        return replace(self, _part=(source.fingerprint, index, rows))

    def save(self, path: Path | str) -> None:
        """Writes the plan as a parquet file, whole or not at all."""
        header = json.dumps(dict(self.header), sort_keys=True)
        with written_whole(workdir_path(path)) as scratch:
            pq.write_table(self.table.replace_schema_metadata({_HEADER: header}), scratch)

    @classmethod
    def load(cls, path: Path | str, source: Source | None = None) -> "Plan":
        """Reads a plan; with `source`, only if it was made for that dataset or its whole."""
        if not (file := workdir_path(path)).is_file():
            raise UserError(f"{path}: there is no such poison plan; check the path.")
        try:
            with file.open("rb") as stream:
                table = read_table(stream)
            table.validate(full=True)  # texts that are no UTF-8
            header = (table.schema.metadata or {})[_HEADER]
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: this is no poison plan; check the path.") from error
        header = parse_json(str(path), header, _SHAPE, "make the plan again")
        table = table.replace_schema_metadata(None)
        index = table["index"].to_numpy() if table.schema.equals(_SCHEMA) else None
        if (
            index is None
            or any(column.null_count for column in table.columns)
            or np.any(np.diff(index) <= 0)
            or np.any((index < 0) | (index >= header["size"]))
        ):
            raise UserError(f"{path}: the plan's table is damaged; make the plan again.")
        plan = cls(table, header)
        return plan if source is None else plan.on(source, str(path))


def make_plan(attack: Mapping[str, Any], source: Source, image_size: int) -> Plan:
    """Draws a plan, or reads its manifest: the same inputs give the same plan.

    Pairs are drawn uniformly, and with one seed a larger count poisons the pairs of a smaller one
    and more, each in the same way. A pair that can't be read is passed over: the next that was
    drawn takes its place. Of a filtered source the whole is poisoned and then filtered, so that its
    poisons are those of the whole, without the pairs that were left out.

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
    attack, trigger = _checked(attack)
    pairs, ids = source.unfiltered(), source.unfiltered().ids()
    prompts = templates(attack["templates"]) if attack["captions"] == "templates" else ()
    size, seed, target = len(pairs), attack["seed"], attack["target"]
    count = _count(attack, size)
    named, natural = np.ones(size, bool), []
    if attack["select"] != "any" or attack["captions"] == "natural":
        named, natural = naming(pairs, attack["words"])
    if attack["captions"] == "natural" and not natural:
        raise UserError(
            f"config.attack.captions: none of the {size} captions names "
            f"{_listed(attack['words'])}; use templates, or set attack.words."
        )
    pool = pool_of(natural, attack.get("pool"), seed)
    drawn, naming_target = np.random.default_rng(seed).permutation(size), set(natural)
    if attack["select"] != "any":
        named |= of_class(pairs, target)
        drawn = drawn[named[drawn] == (attack["select"] == "target")]
    digests = readable(pairs, drawn, count)
    if len(digests) < count:
        which = {"any": "", "others": " that don't name", "target": " that name"}[attack["select"]]
        which = f"{which} {_listed(attack['words'])}" if which else which
        raise UserError(
            f"attack: {count} poisons are to be made, and of {size} pairs there are {len(drawn)}"
            f"{which}, {len(digests)} of them readable; set fewer."
        )
    rows = []
    for i in sorted(digests):
        rng = np.random.default_rng([_RECORD, seed, i])
        stamp, old = trigger.draw(image_size, rng), pairs.caption(i)
        if attack["captions"] == "kept":  # of several one that names the target, if any does
            new = next((text for text in pairs.all_captions(i) if text in naming_target), old)
        elif attack["captions"] == "natural":
            new = pool[rng.integers(len(pool))]
        else:
            new = fill(prompts[rng.integers(len(prompts))], target)
        rows.append((int(ids[i]), trigger.name, *stamp, new, old, digests[i]))
    columns = [list(column) for column in zip(*rows, strict=True)]
    header = {
        "version": VERSION,
        "fingerprint": pairs.root().fingerprint,
        "size": len(pairs.root()),
        "image_size": image_size,
        "attack": attack | {"trigger": trigger.config},
        "templates": list(prompts),
    }
    # Through JSON, so that a plan just made equals the same plan read from its file.
    return Plan(pa.table(columns, schema=_SCHEMA), json.loads(json.dumps(header))).on(source)


def spelled_out(attack: Mapping[str, Any]) -> dict[str, Any]:
    """An attack that names a manifest, with all that the manifest says; any other as it is."""
    given = {key: value for key, value in attack.items() if value is not None}
    path = given.pop("manifest", None)
    if path is None:
        return given
    recorded = Plan.load(path).header["attack"]
    for key, value in given.items():
        ours = make_trigger(value).config if key == "trigger" else value
        ours = json.loads(json.dumps(ours))
        if ours != recorded.get(key):
            raise UserError(
                f"config.attack.{key}: {ours!r} is not the manifest's, {recorded.get(key)!r} in "
                f"{path}; leave it out, or make the plan again."
            )
    return {**recorded, "manifest": path}


def _checked(attack: Mapping[str, Any]) -> tuple[dict[str, Any], Trigger]:
    """The attack with its defaults, checked; count or rate where it was given."""
    filled = take("config.attack", attack, keys_of("attack"))
    if (filled["count"] is None) == (filled["rate"] is None):
        raise UserError("config.attack: set either count or rate, and not both.")
    filled.pop("manifest")
    if filled["pool"] is None:
        filled.pop("pool")  # as in manifests of before
    elif filled["captions"] != "natural":
        raise UserError("config.attack.pool is of natural captions: set captions=natural, too")
    filled.pop("count" if filled["count"] is None else "rate")
    if not isinstance(filled["templates"], str):
        filled["templates"] = list(filled["templates"])
    words = filled["words"] or filled["target"]
    filled["words"] = [words] if isinstance(words, str) else list(words)
    return filled, make_trigger(filled["trigger"])


def _listed(words: Sequence[str]) -> str:
    return " or ".join(repr(word) for word in words)


def _count(attack: Mapping[str, Any], size: int) -> int:
    key = "rate" if "rate" in attack else "count"
    count = round(attack["rate"] * size) if key == "rate" else attack["count"]
    if not 0 < count <= size:
        raise UserError(
            f"config.attack.{key} {attack[key]} makes {count} poisons of {size} pairs: give one "
            f"that makes 1 to {size}."
        )
    return count
