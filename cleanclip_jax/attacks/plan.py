"""The poison plan: which records are poisoned, and how exactly.

A plan is a table with one row a poisoned record and a header. The pipeline applies it on the
fly, evaluation replays its trigger, and a detector's scores are joined to it by the index.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cleanclip_jax.attacks.triggers import Stamp, Trigger, make_trigger
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.files import written_whole
from cleanclip_jax.text.prompts import fill, templates

VERSION = 1
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
    }
)
_DEFAULTS = {"captions": "templates", "templates": "imagenet", "seed": 0, "geometry": "crop"}
_KEYS = ("trigger", "target", "count", "rate", *_DEFAULTS)

# Keeps the stream of each record's draws apart from the one that chooses the records.
_RECORD = 0x5245434F


@dataclass(frozen=True)
class Plan:
    """A poison plan: `table` in the order of `index`, and its `header`.

    The header holds version, fingerprint (of the dataset), size (records in the dataset),
    image_size (pixels), attack (every option spelled out) and templates. In the table, row and
    col of -1 mean all four corners.
    """

    table: pa.Table
    header: Mapping[str, Any]

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def index(self) -> np.ndarray:
        """Which records are poisoned: int64 [n], ascending, each once."""
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
        """Returns record `index`'s stamp and poisoned caption, or None if it is clean."""
        at = int(np.searchsorted(self.index, index))
        if at == len(self) or self.index[at] != index:
            return None
        row, col, seed, caption = (
            self.table[name][at].as_py() for name in ("row", "col", "seed", "caption")
        )
        return Stamp(row, col, seed), caption

    def save(self, path: Path | str) -> None:
        """Writes the plan as a parquet file, whole or not at all."""
        header = json.dumps(dict(self.header), sort_keys=True)
        with written_whole(Path(path)) as scratch:
            pq.write_table(self.table.replace_schema_metadata({_HEADER: header}), scratch)

    @classmethod
    def load(cls, path: Path | str, fingerprint: str | None = None) -> "Plan":
        """Reads a plan; with `fingerprint`, only if it was made for that dataset.

        Raises:
          UserError: for a missing or broken file, another version or another dataset.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no such poison plan; check the path.")
        try:
            table = pq.read_table(path)
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


def make_plan(
    attack: Mapping[str, Any],
    size: int,
    caption: Callable[[int], str],
    image_size: int,
    fingerprint: str,
) -> Plan:
    """Draws a plan: the same inputs give the same plan.

    Records are drawn uniformly, whatever their captions say, and with one seed a larger count
    poisons the records of a smaller one and more, each in the same way.

    Args:
      attack: trigger (see `make_trigger`), target (class name), count or rate (of `size`), and
        optionally captions ("templates"), templates (a set's name or a list), seed, geometry
        ("crop" or "squash").
      size: records in the dataset.
      caption: gives a record's caption by its index.
      image_size: side of the pictures that the trigger is put on, in pixels.
      fingerprint: the dataset's.

    Raises:
      UserError: for an unknown key or value, or more poisons than records.
    """
    attack, trigger = _checked(attack)
    prompts = templates(attack["templates"])
    count = _count(attack, size)
    seed = attack["seed"]
    index = np.sort(np.random.default_rng(seed).permutation(size)[:count])
    rows = []
    for i in index.tolist():
        rng = np.random.default_rng([_RECORD, seed, i])
        stamp = trigger.draw(image_size, rng)
        new = fill(prompts[rng.integers(len(prompts))], attack["target"])
        rows.append((i, trigger.name, *stamp, new, caption(i)))
    columns = [list(column) for column in zip(*rows, strict=True)]
    header = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "size": size,
        "image_size": image_size,
        "attack": attack | {"trigger": trigger.config},
        "templates": list(prompts),
    }
    # Through JSON, so that a plan just made equals the same plan read from its file.
    return Plan(pa.table(columns, schema=_SCHEMA), json.loads(json.dumps(header)))


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
    for key, words in (("captions", ("templates",)), ("geometry", ("crop", "squash"))):
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
    trigger = make_trigger(filled["trigger"])
    return filled, trigger


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
        given = f"rate {rate} of {size} records makes {count} poisons" if rate else repr(count)
        raise UserError(
            f"attack.{'rate' if rate else 'count'}: {given}; it is to give 1 to {size} poisons, "
            "and for clean data there is no attack."
        )
    return count
