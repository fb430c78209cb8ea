"""A suite: sets, models, attacks, defences, detectors and seeds, and the cells that they make."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cleanclip_jax.config import load
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.shapes import parse_json

_KEYS = {"keys?": [str]}
SHAPE = {  # of what a suite's get_config returns; docs/benchmark.md says what each is
    "title": str,
    "sets": {str: {"config": str, "clean?": [str], "pairs?": [int, int], **_KEYS}},
    "models": {str: [str]},
    "attacks": {str: {"keys": [str], "asr?": str}},
    "defences": {str: {"config?": str, "over?": str, "rates": [float], **_KEYS}},
    "detectors": {str: {"kind": {"pairs", "pictures", "model"}, "options?": {str: int}}},
    "rebound?": ({"config": str, **_KEYS}, None),
    "seeds": [int],
    "first?": [str],
}
# A detector's options by its kind.
OPTIONS = {
    "pairs": ("k", "sample", "draws", "seed", "block"),
    "pictures": (),
    "model": ("steps", "pictures", "batch"),
}
CLEAN = "never poisoned"  # the attack that is none
RATE = "optimizer.learning_rate"
# What a cell lies at, in the order of a table's columns.
PLACES = ("kind", "set", "model", "attack", "seed", "defence", "rate", "detector")
Selection = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Cell:
    """A model to train and measure, or a detector's scores to take.

    Attributes:
      kind: poisoned | cleaned | rebound | detector.
      at: its set, model, attack, seed, and what else it has of `PLACES`, in their order.
      spec, keys: its config, FILE.py[:arg] and KEY=VALUE, in which {start} and {floor} stand for
        workdirs.
      start: the model that it begins with, or that a detector looks at.
      floor: the never poisoned model of its seed.
      options: a detector's.
    """

    kind: str
    at: tuple[tuple[str, str], ...]
    spec: str = ""
    keys: tuple[str, ...] = ()
    start: "Cell | None" = None
    floor: "Cell | None" = None
    options: tuple[tuple[str, int], ...] = ()

    @cached_property
    def places(self) -> dict[str, str]:
        """Where it lies, its kind among it."""
        return {"kind": self.kind, **dict(self.at)}

    @property
    def name(self) -> str:
        """'fashion, ViT-32px/8, badnet, seed 0, par, rate 0.001'."""
        words = [f"{k} {v}" if k in ("seed", "rate") else v for k, v in self.at]
        return ", ".join([*words, *(["rebound"] if self.kind == "rebound" else [])])

    @property
    def group(self) -> tuple[Any, ...]:
        """What is the same for cells that are made together: of a defence's rates, say."""
        alike = tuple(pair for pair in self.at if pair[0] not in ("rate", "detector"))
        return self.kind, alike, self.options

    def within(self, selection: Selection) -> bool:
        """Whether it is one of those that a selection names."""
        return all(self.places.get(key) in values for key, values in selection.items())


def read_selection(flag: str, text: str) -> Selection:
    """'attack=badnet,attack=wanet,defence=par': one of the values of each key that is named."""
    chosen: dict[str, set[str]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{flag}={text}: write KEY=VALUE,KEY=VALUE, of {', '.join(PLACES)}")
        if key not in PLACES:
            raise unknown(flag, key, PLACES)
        chosen.setdefault(key, set()).add(value)
    return {key: frozenset(values) for key, values in chosen.items()}


@dataclass(frozen=True)
class Suite:
    """A suite as its config has it, with the keys that a command line adds to every run."""

    spec: str
    content: Mapping[str, Any]
    overrides: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> list[Cell]:
        """All but the rebounds, whose start is known only once the rates have been compared.

        The never poisoned models come before all that compares with them, then what `first`
        selects, then seed by seed.
        """
        content = self.content
        cells = [
            each
            for seed in content["seeds"]
            for set_ in content["sets"]
            for model in content["models"]
            for attack in (CLEAN, *content["attacks"])
            for each in self._of_model(self.poisoned(set_, model, attack, str(seed)))
        ]
        first = [read_selection(f"{self.spec}: first", text) for text in content.get("first", ())]

        def turn(cell: Cell) -> int:
            return next((i for i, s in enumerate(first) if cell.within(s)), len(first))

        return sorted(cells, key=turn)

    def _of_model(self, poisoned: Cell) -> Iterator[Cell]:
        yield poisoned
        attacked = poisoned.places["attack"] != CLEAN
        if attacked:
            for defence, row in self.content["defences"].items():
                yield from (self.cleaned(poisoned, defence, rate) for rate in row["rates"])
        for detector, row in self.content["detectors"].items():
            if attacked or row["kind"] == "model":
                options = tuple(sorted(row.get("options", {}).items()))
                at = (*poisoned.at, ("detector", detector))
                floor = poisoned.floor
                yield Cell("detector", at, "", (), poisoned, floor, options)

    def poisoned(self, set_: str, model: str, attack: str, seed: str) -> Cell:
        """The model that an attack has poisoned; of `CLEAN` the one that none has."""
        row, clean = self.content["sets"][set_], attack == CLEAN
        floor = None if clean else self.poisoned(set_, model, CLEAN, seed)
        keys = (*row.get("keys", ()), *self.content["models"][model])
        keys += ("attack=None",) if clean else tuple(self.content["attacks"][attack]["keys"])
        keys += () if clean else ("evaluation.floor={floor}",)
        at = (("set", set_), ("model", model), ("attack", attack), ("seed", seed))
        return Cell("poisoned", at, row["config"], self._with(keys, seed), None, floor)

    def cleaned(self, poisoned: Cell, defence: str, rate: float) -> Cell:
        """A defence at a rate: one that has no config trains the poisoned run its own way."""
        row, at = self.content["defences"][defence], poisoned.places
        over = (*row.get("keys", ()), f"{row.get('over', RATE)}={rate:g}")
        places = (*poisoned.at, ("defence", defence), ("rate", f"{rate:g}"))
        if "config" not in row:
            return replace(poisoned, kind="cleaned", at=places, keys=(*poisoned.keys, *over))
        keys = (*self.content["sets"][at["set"]].get("clean", ()), *over)
        keys = (*self._with(keys, at["seed"]), "start={start}")
        return Cell("cleaned", places, row["config"].format(set=at["set"]), keys, poisoned)

    def rebound(self, cleaned: Cell) -> Cell | None:
        """A cleaned model that is trained on, on clean pairs; None where the suite has none."""
        row, at = self.content.get("rebound"), cleaned.places
        if row is None:
            return None
        keys = (*self.content["sets"][at["set"]].get("clean", ()), *row.get("keys", ()))
        keys = (*self._with(keys, at["seed"]), "start={start}")
        spec = row["config"].format(set=at["set"])
        return Cell("rebound", cleaned.at, spec, keys, cleaned)

    def _with(self, keys: Iterable[str], seed: str) -> tuple[str, ...]:
        return (*keys, f"seed={seed}", *self.overrides)


def open_suite(name: str, overrides: Mapping[str, str]) -> Suite:
    """A suite of configs/benchmark.py by its name, or of a file of one's own, FILE.py[:arg]."""
    spec = name if ".py" in name else f"configs/benchmark.py:{name}"
    content = load(spec).to_dict()
    content = parse_json(spec, json.dumps(content, default=str), SHAPE)
    for key in ("sets", "models", "attacks", "seeds"):
        if not content[key]:
            raise UserError(f"{spec}: {key} is empty: name one or more")
    if CLEAN in content["attacks"]:
        raise UserError(f"{spec}: attacks: {CLEAN!r} is the model that has none: name it otherwise")
    for name, row in content["detectors"].items():
        for option, number in row.get("options", {}).items():
            if option not in OPTIONS[row["kind"]]:
                raise unknown(f"{spec}: detectors.{name}.options", option, OPTIONS[row["kind"]])
            if number < 0:
                raise UserError(f"{spec}: detectors.{name}.options.{option} is {number}")
    keys = tuple(f"{key}={value}" for key, value in overrides.items())
    if taken := {"seed", "start"} & overrides.keys():
        raise UserError(f"--config.{min(taken)}: a suite sets it itself")
    return Suite(spec, content, keys)
