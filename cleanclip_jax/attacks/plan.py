"""The poison plan: which pairs are poisoned, and how exactly.

A plan is a table with one row a poisoned pair and a header. The pipeline applies it on the fly,
evaluation replays its trigger, and a detector's scores are joined to it by the index.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from cleanclip_jax.attacks.pairs import Pairs, digest, naming, of_class, readable
from cleanclip_jax.attacks.triggers import Stamp, Trigger, make_trigger
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.files import written_whole
from cleanclip_jax.text.prompts import fill, templates
from cleanclip_jax.workdir import workdir_path

VERSION = 2
_HEADER = b"cleanclip_plan"
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
_WORDS = {  # the first is the default
    "captions": ("templates", "natural", "kept"),
    "select": ("any", "others", "target"),
    "geometry": ("crop", "squash"),
}
_DEFAULTS = {
    **{key: words[0] for key, words in _WORDS.items()},
    "templates": "imagenet",
    "words": None,
    "seed": 0,
}
_KEYS = ("trigger", "target", "count", "rate", *_DEFAULTS, "manifest")

# Keeps the stream of each pair's draws apart from the one that chooses the pairs.
_RECORD = 0x5245434F


@dataclass(frozen=True)
class Plan:
    """A poison plan: `table` in the order of `index`, and its `header`.

    The header holds version, fingerprint (of the dataset), size (pairs in the dataset),
    image_size (pixels), attack (every option spelled out) and the texts of the templates. In the
    table, row and col of -1 mean all four corners; digest is that of the picture's bytes.
    """

    table: pa.Table
    header: Mapping[str, Any]

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def index(self) -> np.ndarray:
        """Which pairs are poisoned: int64 [n], ascending, each once."""
        return self.table["index"].to_numpy()

    @cached_property
    def trigger(self) -> Trigger:
        """The trigger that every row applies."""
        return make_trigger(self.header["attack"]["trigger"])

    @property
    def target(self) -> str:
        """The class name that poisoned captions name."""
        return self.header["attack"]["target"]

    @property
    def geometry(self) -> str:
        """How poisoned pictures come to their size: "crop", or "squash" (fidelity row 7)."""
        return self.header["attack"]["geometry"]

    def stamp_at(self, index: int) -> tuple[Stamp, str] | None:
        """Returns pair `index`'s stamp and poisoned caption, or None if it is clean."""
        at = self._row_of(index)
        if at is None:
            return None
        row, col, seed, caption = (
            self.table[name][at].as_py() for name in ("row", "col", "seed", "caption")
        )
        return Stamp(row, col, seed), caption

    def check(self, index: int, image: bytes | UInt8[np.ndarray, "h w 3"], where: str) -> None:
        """Refuses another picture than the one that was planned; a clean pair may have any.

        Args:
          image: as the source gives it, encoded or decoded.
          where: the pair's place in words.

        Raises:
          UserError: if pair `index` is poisoned and its picture's bytes have changed.
        """
        at = self._row_of(index)
        if at is not None and digest(image) != self.table["digest"][at].as_py():
            raise UserError(
                f"{where}: the picture has changed since the poison plan was made; bring the old "
                "one back, or make the plan again."
            )

    def _row_of(self, index: int) -> int | None:
        at = int(np.searchsorted(self.index, index))
        return at if at < len(self) and self.index[at] == index else None

    def save(self, path: Path | str) -> None:
        """Writes the plan as a parquet file, whole or not at all."""
        header = json.dumps(dict(self.header), sort_keys=True)
        with written_whole(workdir_path(path)) as scratch:
            pq.write_table(self.table.replace_schema_metadata({_HEADER: header}), scratch)

    @classmethod
    def load(cls, path: Path | str, fingerprint: str | None = None) -> "Plan":
        """Reads a plan; with `fingerprint`, only if it was made for that dataset.

        Raises:
          UserError: for a missing or broken file, another version or another dataset.
        """
        if not (file := workdir_path(path)).is_file():
            raise UserError(f"{path}: there is no such poison plan; check the path.")
        try:
            with file.open("rb") as stream:
                table = pq.read_table(stream)
            header = json.loads((table.schema.metadata or {})[_HEADER])
        except (pa.ArrowInvalid, KeyError, ValueError) as error:
            raise UserError(f"{path}: this is no poison plan; check the path.") from error
        if header.get("version") != VERSION:
            raise UserError(
                f"{path}: the plan is of version {header.get('version')}, and this program reads "
                f"version {VERSION}; make the plan again."
            )
        if fingerprint is not None and header["fingerprint"] != fingerprint:
            raise UserError(
                f"{path}: the plan was made for dataset {header['fingerprint'][:12]}, and this is "
                f"{fingerprint[:12]}; use that dataset, or make a plan for this one."
            )
        table = table.replace_schema_metadata(None)
        index = table["index"].to_numpy() if table.schema.equals(_SCHEMA) else None
        if (
            index is None
            or np.any(np.diff(index) <= 0)
            or np.any((index < 0) | (index >= header["size"]))
        ):
            raise UserError(f"{path}: the plan's table is damaged; make the plan again.")
        return cls(table, header)


def make_plan(attack: Mapping[str, Any], pairs: Pairs, image_size: int) -> Plan:
    """Draws a plan, or reads its manifest: the same inputs give the same plan.

    Pairs are drawn uniformly, and with one seed a larger count poisons the pairs of a smaller one
    and more, each in the same way. A pair that can't be read is passed over: the next that was
    drawn takes its place.

    Args:
      attack: docs/attacks.md tells the keys:
        trigger: see `make_trigger`.
        target: a class name.
        count or rate: how many poisons; a rate is of all pairs.
        select: "any" pair, "others" than the target's, or the "target"'s own: those whose caption
          names the target, or whose class it is.
        captions: "templates" filled with the target, "natural" ones of this dataset that name it,
          or "kept".
        templates: a set's name or a list.
        words: what counts as naming the target; its name.
        geometry: "crop" or "squash" (fidelity row 7).
        seed: draws everything.
        manifest: a file that `save` wrote, in place of all other keys.
      pairs: what is poisoned, as a data.records.Source.
      image_size: side of the pictures that the trigger is put on, in pixels.

    Raises:
      UserError: for an unknown key or value, more poisons than there are pairs for, or a manifest
        of another dataset or size.
    """
    if attack.get("manifest") is not None:
        plan = Plan.load(attack["manifest"], pairs.fingerprint)
        spelled_out(attack)
        if plan.header["image_size"] != image_size:
            raise UserError(
                f"{attack['manifest']}: the plan is for pictures of {plan.header['image_size']} "
                f"pixels, not {image_size}; make one for this size."
            )
        return plan
    attack, trigger = _checked(attack)
    prompts = templates(attack["templates"]) if attack["captions"] == "templates" else ()
    size, seed, target = len(pairs), attack["seed"], attack["target"]
    count = _count(attack, size)
    named, natural = np.ones(size, bool), []
    if attack["select"] != "any" or attack["captions"] == "natural":
        named, natural = naming(pairs, attack["words"])
    if attack["captions"] == "natural" and not natural:
        raise UserError(
            f"attack.captions: none of the {size} captions names {_listed(attack['words'])}; use "
            "templates, or set attack.words."
        )
    drawn = np.random.default_rng(seed).permutation(size)
    if attack["select"] != "any":
        own = named | of_class(pairs, target)
        drawn = drawn[own[drawn] if attack["select"] == "target" else ~own[drawn]]
    found = readable(pairs, drawn, count)
    if len(found) < count:
        which = {"any": "", "others": " that don't name", "target": " that name"}[attack["select"]]
        which = f"{which} {_listed(attack['words'])}" if which else which
        raise UserError(
            f"attack: {count} poisons are asked for, and of {size} pairs there are {len(drawn)}"
            f"{which}, {len(found)} of them readable; ask for fewer."
        )
    rows = []
    for i in sorted(found):
        rng = np.random.default_rng([_RECORD, seed, i])
        stamp, old = trigger.draw(image_size, rng), pairs.caption(i)
        if attack["captions"] == "kept":
            new = old
        elif attack["captions"] == "natural":
            new = natural[rng.integers(len(natural))]
        else:
            new = fill(prompts[rng.integers(len(prompts))], target)
        rows.append((i, trigger.name, *stamp, new, old, found[i]))
    columns = [list(column) for column in zip(*rows, strict=True)]
    header = {
        "version": VERSION,
        "fingerprint": pairs.fingerprint,
        "size": size,
        "image_size": image_size,
        "attack": attack | {"trigger": trigger.config},
        "templates": list(prompts),
    }
    # Through JSON, so that a plan just made equals the same plan read from its file.
    return Plan(pa.table(columns, schema=_SCHEMA), json.loads(json.dumps(header)))


def spelled_out(attack: Mapping[str, Any]) -> dict[str, Any]:
    """An attack that names a manifest, with all that the manifest says; any other as it is.

    Raises:
      UserError: for no such manifest, or an attack that says otherwise.
    """
    given = {key: value for key, value in attack.items() if value is not None}
    path = given.pop("manifest", None)
    if path is None:
        return given
    theirs = Plan.load(path).header["attack"]
    for key, value in given.items():
        ours = make_trigger(value).config if key == "trigger" else value
        ours = json.loads(json.dumps(ours))
        if ours != theirs.get(key):
            raise UserError(
                f"attack.{key}: {ours!r} is not the manifest's, {theirs.get(key)!r} in {path}; "
                "leave it out, or make the plan again."
            )
    return {**theirs, "manifest": path}


def _checked(attack: Mapping[str, Any]) -> tuple[dict[str, Any], Trigger]:
    for key in attack:
        if key not in _KEYS:
            raise UserError(
                f"attack.{key}: there is no such key; there are {', '.join(_KEYS)}."
                f"{near(key, _KEYS)}"
            )
    for key, example in (("trigger", "{'name': 'badnet'}"), ("target", "'banana'")):
        if not attack.get(key):
            raise UserError(f"attack.{key}: it is missing; set it, as {example}.")
    filled = _DEFAULTS | {key: value for key, value in attack.items() if value is not None}
    for key, words in _WORDS.items():
        if filled[key] not in words:
            raise UserError(
                f"attack.{key}: {filled[key]!r} does not do; it is one of {', '.join(words)}."
                f"{near(str(filled[key]), words)}"
            )
    if not isinstance(filled["seed"], int) or filled["seed"] < 0:
        raise UserError(f"attack.seed: {filled['seed']!r} does not do; give a whole number >= 0.")
    if not isinstance(filled["target"], str):
        raise UserError(f"attack.target: {filled['target']!r} is no class name; give its name.")
    if not isinstance(filled["templates"], str):
        filled["templates"] = list(filled["templates"])
    words = [filled["target"]] if filled["words"] is None else filled["words"]
    filled["words"] = [words] if isinstance(words, str) else list(words)
    if not all(isinstance(word, str) and word.strip() for word in filled["words"] or [""]):
        raise UserError(f"attack.words: {words!r} does not do; give a word, or a list of them.")
    return filled, make_trigger(filled["trigger"])


def _listed(words: Sequence[str]) -> str:
    return " or ".join(repr(word) for word in words)


def _count(attack: Mapping[str, Any], size: int) -> int:
    if ("count" in attack) == ("rate" in attack):
        raise UserError("attack: set either count or rate, and not both.")
    if "rate" in attack:
        rate = attack["rate"]
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise UserError(f"attack.rate: {rate!r} is no share; give one above 0 and up to 1.")
        count = round(rate * size)
    else:
        rate, count = None, attack["count"]
    if not isinstance(count, int) or not 0 < count <= size:
        given = f"rate {rate} of {size} pairs makes {count} poisons" if rate else repr(count)
        raise UserError(
            f"attack.{'rate' if rate else 'count'}: {given}; it is to give 1 to {size} poisons, "
            "and for clean data there is no attack."
        )
    return count
