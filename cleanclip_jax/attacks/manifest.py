"""The manifest: a poison plan as a table and a header, in memory and as a file.

One row a poisoned pair. The pipeline applies it on the fly, evaluation replays its triggers, and a
detector's scores are joined to it by the records' ids.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8

from cleanclip_jax.attacks.pairs import Poison
from cleanclip_jax.attacks.parts import NONE, Part, parts_of
from cleanclip_jax.attacks.triggers import Stamp, Trigger
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import written_whole
from cleanclip_jax.parquet import read_table
from cleanclip_jax.record import Source
from cleanclip_jax.shapes import parse_json
from cleanclip_jax.workdir import workdir_path

if TYPE_CHECKING:
    from cleanclip_jax.text.tokenizer import Tokenizer
else:  # a plan is read without one
    Tokenizer = Any

log = logging.getLogger(__name__)

VERSION = 3
_HEADER = b"cleanclip_plan"
_PART = {"target": str, "trigger": {}}
_SHAPE = {"version": {2, VERSION}, "fingerprint": str, "size": int, "image_size": int}
_SHAPE |= {"attack": ({**_PART, "geometry": str}, {"parts": [_PART], "geometry": str})}
_SHAPE |= {"templates": [str]}
SCHEMA = pa.schema(
    {
        "index": pa.int64(),
        "trigger": pa.string(),
        "row": pa.int32(),
        "col": pa.int32(),
        "seed": pa.int64(),
        "caption": pa.string(),
        "original_caption": pa.string(),
        "digest": pa.string(),
        "part": pa.int8(),
        "source": pa.int64(),
    }
)
_STAMP = ("row", "col", "seed")
# What version 2 lacks, and what its rows would have there.
_NEW = {"part": 0, "source": -1}


@dataclass(frozen=True)
class Plan:
    """A poison plan: `table` in the order of its column `index`, and its `header`.

    The header holds version, fingerprint (of the dataset), size (pairs in the dataset),
    image_size (pixels), attack (every option spelled out) and the texts of the templates. In the
    table, index is the pair's id in that dataset; row and col of -1 mean all four corners; part
    numbers the attack's parts from 0; source is -1, or the id of the pair whose picture takes the
    place of the pair's; digest is that of the bytes of the picture that is shown. A row whose
    trigger is "none" has a caption of its own alone.
    """

    table: pa.Table
    header: Mapping[str, Any]
    # Of a plan for a subset of its dataset: its fingerprint, the indices in it of the poisons that
    # it has, and their rows in the table.
    _subset: tuple[str, np.ndarray, np.ndarray] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def index(self) -> Int64[np.ndarray, " n"]:
        """Which pairs of the source that the plan is for are poisoned: ascending, each once."""
        return self.table["index"].to_numpy() if self._subset is None else self._subset[1]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The attack's parts; a UserError where a row of the table is none of theirs."""
        parts, side = parts_of(self.header["attack"]), self.header["image_size"]
        stamps = np.stack([self.table[name].to_numpy().astype(np.int64) for name in _STAMP], 1)
        part, names = self.table["part"].to_numpy(), np.array(self.table["trigger"])
        wrong = (part < 0) | (part >= len(parts))
        for number, one in enumerate(parts):
            fits = np.where(names == NONE, ~stamps.any(1), one.trigger.fits(side, stamps))
            rows = part == number
            wrong |= rows & ~(fits & np.isin(names, (one.trigger.name, NONE)))
        if wrong.any():
            row = self.table.slice(int(wrong.argmax()), 1).to_pylist()[0]
            names = " or ".join(dict.fromkeys(part.trigger.name for part in parts))
            raise UserError(
                f"the poison plan is damaged: its row of pair {row['index']} is no {names} on "
                f"a picture of {side} pixels; make the plan again."
            )
        return parts

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """Each part's trigger."""
        return tuple(part.trigger for part in self.parts)

    @property
    def trigger(self) -> Trigger:
        """The first part's trigger."""
        return self.parts[0].trigger

    @cached_property
    def digest(self) -> str:
        """A sha256 over the whole plan."""
        content = json.dumps([dict(self.header), self.table.to_pydict()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def target(self) -> str:
        """The class name that the first part's captions name."""
        attack = self.header["attack"]
        return attack.get("parts", [attack])[0]["target"]

    @property
    def geometry(self) -> str:
        """How poisoned pictures come to their size: "crop", or "squash" as in the original."""
        return self.header["attack"]["geometry"]

    def poison_at(self, index: int) -> Poison | None:
        """Returns how pair `index` is poisoned, or None if it is clean."""
        at = int(np.searchsorted(self.index, index))
        if at == len(self) or self.index[at] != index:
            return None
        at = at if self._subset is None else int(self._subset[2][at])
        columns = (*_STAMP, "trigger", "caption", "digest", "part", "source")
        *stamp, trigger, caption, digest, part, source = (
            self.table[name][at].as_py() for name in columns
        )
        return Poison(
            None if trigger == NONE else Stamp(*stamp), caption, digest, int(part), int(source)
        )

    def put_on(
        self, image: UInt8[np.ndarray, "h w 3"], stamp: Stamp | None, part: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A picture with the trigger of a part; without a stamp as it is."""
        return image if stamp is None else self.parts[part].trigger.apply(image, stamp)

    def rows_of(self, part: int) -> Int64[np.ndarray, " n"]:
        """The indices of a part's poisons, ascending."""
        column = self.table["part"].to_numpy()
        return self.index[(column if self._subset is None else column[self._subset[2]]) == part]

    def check_words(self, tokenizer: Tokenizer) -> None:
        """Refuses a word trigger that a tokenizer cuts off the captions that it was put on."""
        room = tokenizer.context_length - 1 - tokenizer.keep_end
        columns = (self.table[name].to_pylist() for name in ("part", "caption", "original_caption"))
        rows = [*zip(*columns, strict=True)]
        for number, part in enumerate(self.parts):
            if (word := part.word) is None:
                continue
            texts = [new for at, new, old in rows if at == number and new != old]
            texts = texts if word.at == "end" else [word.word] * len(texts)
            lost = sum(len(tokenizer.encode(text)) > room for text in texts)
            if lost:
                raise UserError(
                    f"{part.where}.text: {word.word!r} is cut off of {lost} of {len(texts)} "
                    f"captions, as there is room for {room} tokens: put it at the start, or raise "
                    "config.text.context_length"
                )

    def __str__(self) -> str:
        """What is poisoned with what, in words."""
        if len(self.parts) == 1:
            return f"poisoned with {self.parts[0]}"
        counts = (f"{len(self.rows_of(i))} with {part}" for i, part in enumerate(self.parts))
        return f"poisoned: {', '.join(counts)}"

    def on(self, source: Source, name: str = "attack") -> "Plan":
        """The plan for `source`, which is its dataset or a part of it: poisons are found by id.

        Args:
          name: what has the plan, as the error for a source of another dataset says.
        """
        planned = self.header["fingerprint"]
        if self._subset is not None and self._subset[0] == source.fingerprint:
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
        return replace(self, _subset=(source.fingerprint, index, rows))

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
        if header["version"] < VERSION:
            header["version"] = VERSION
            for name, value in _NEW.items():
                column = pa.array([value] * len(table), SCHEMA.field(name).type)
                table = table.append_column(SCHEMA.field(name), column)
        names = ("index", "source") if table.schema.equals(SCHEMA) else ()
        index, shown = (table[name].to_numpy() for name in names) if names else (None, None)
        if (
            index is None
            or shown is None
            or any(column.null_count for column in table.columns)
            or np.any(np.diff(index) <= 0)
            or np.any((index < 0) | (index >= header["size"]))
            or np.any((shown < -1) | (shown >= header["size"]))
        ):
            raise UserError(f"{path}: the plan's table is damaged; make the plan again.")
        plan = cls(table, header)
        return plan if source is None else plan.on(source, str(path))
