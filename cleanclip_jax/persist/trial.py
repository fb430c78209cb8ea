"""The models that are compared, how they are measured, and the file of what is known of them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.attacks.parts import NONE, parts_of
from cleanclip_jax.config import check
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder, encoder_from
from cleanclip_jax.measure.goals import Goal, goals_of
from cleanclip_jax.measure.measure import Opened, evaluate, open_measured
from cleanclip_jax.record import Source
from cleanclip_jax.report.persist_rows import CLEANED, FLOOR, PERSIST, POISONED, SHAPE
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.mixing import common_tokenizer
from cleanclip_jax.start.start import RunStart, Start, open_start
from cleanclip_jax.workdir import CONFIG, Workdir, workdir_path

Figures = dict[str, dict[str, Any]]
_SHOWN = re.compile(r"(ca|asr(\.\w+)?|clean_target_rate(\.\w+)?|zscore\w*)")
_TOPS = re.compile(r"_top\d+$")
FREE = ("protocols", "seeds", "rates", "alphas")  # a folder goes on with others of these


@dataclass(frozen=True)
class Settings:
    """What decides the figures; written down, and a folder goes on with the same but for `FREE`.

    Attributes:
      data: the pairs of retuning, rebound and the search for a perturbation.
      rates: learning rates of retuning and rebound.
      epochs: after which these are measured; the last one ends them.
      poisons: of each part of the attack, put back in retuning.
      alphas: places on the path, as texts; 0 is the cleaned model, 1 the poisoned one.
      pictures: of the pairs, for a perturbation, and for a ResNet's running statistics.
      radius, step_size, rounds: of the perturbation.
    """

    protocols: Sequence[str]
    data: Mapping[str, Any]
    seeds: Sequence[int]
    rates: Sequence[float]
    epochs: Sequence[int]
    poisons: int
    alphas: Sequence[str]
    pictures: int
    radius: float
    step_size: float
    rounds: int
    overrides: Mapping[str, str]


class Trial:
    """A cleaned, a poisoned and maybe a never poisoned model, of which nothing is left to refuse.

    Args:
      starts: by CLEANED, POISONED and, where there is one, FLOOR.
    """

    def __init__(self, folder: Path, starts: Mapping[str, Start], settings: Settings):
        self.folder, self.starts, self.settings = Workdir(folder), dict(starts), settings
        self.config = _config(starts[POISONED], settings.overrides)
        _check_models(self.starts)
        self.mesh = make_mesh(self.config.mesh.data, self.config.mesh.fsdp)
        self.opened: Opened = open_measured(self.config.evaluation)
        if not self.opened.sets:
            raise UserError("config.evaluation.data is not set: name a labelled source")
        self.source: Source = open_source(dict(settings.data))
        self.models = [name for name in (CLEANED, FLOOR) if name in self.starts]
        self.rows: list[dict[str, Any]] = []

    @cached_property
    def goals(self) -> list[Goal]:
        """What each part of the attack is after in the first set."""
        return goals_of(self.config.evaluation, self.opened.sets[0])

    def claim(self) -> None:
        """Makes the folder this trial's, with the rows that it has; refuses another's."""
        if self.folder.has(CONFIG):
            raise UserError(f"{self.folder} is a run's workdir: name a folder with --output")
        now = json.loads(json.dumps(asdict(self.settings)))
        now |= {"evaluation": json.loads(json.dumps(self.config.evaluation.to_dict()))}
        now |= {"data_fingerprint": self.source.fingerprint}
        for name, start in self.starts.items():
            identity = dict(start.identity)
            now[name] = identity.get("digest") or identity
        if self.folder.has(PERSIST):
            known = self.folder.read_json(PERSIST, SHAPE, "remove it")
            before, self.rows = known["settings"], known["rows"]
            now = {**{FLOOR: before.get(FLOOR)}, **now}
            for key in now:
                missing = key == FLOOR and (before.get(key) is None or now[key] is None)
                if key not in FREE and not missing and before.get(key) != now[key]:
                    raise UserError(
                        f"{self.folder} holds figures with another {key}: "
                        f"{before.get(key)!r}, now {now[key]!r}; name another --output"
                    )
        self._facts = now

    def write(self, command: str) -> None:
        """Writes what is known."""
        self.command = command
        paths = {name: str(start.path) for name, start in self.starts.items()}
        content = {"command": command, "models": paths, "settings": self._facts}
        self.folder.write_json(PERSIST, {**content, "rows": self.rows})

    def known(self, **row: Any) -> bool:
        """Whether the figures of a row are there."""
        return any(all(each.get(k) == v for k, v in row.items()) for each in self.rows)

    def once(self, make: Callable[[], Figures], **row: Any) -> None:
        """Makes the figures of a row and writes them, unless they are there.

        Args:
          row: `protocol`, `model`, and what else tells it: at, rate, seed.
        """
        if not self.known(**row):
            self.rows.append({**row, "figures": make()})
            self.write(self.command)

    def encoder(self, start: Start, step: int | None = None) -> Encoder:
        """The model of a start, or of a checkpoint on its way."""
        return encoder_from(start, self.mesh, step=step)

    def measure(self, encoder: Encoder, metrics: tuple[str, ...] = ()) -> Figures:
        """CA, each part's ASR, and how often clean pictures land on its target."""
        config = self.config.copy_and_resolve_references()
        opened = self.opened
        if metrics:
            with config.unlocked(), config.ignore_type():
                config.evaluation.metrics = metrics
            opened = open_measured(config.evaluation)
        figures = evaluate(config, encoder, opened=opened)["figures"]
        return {k: v for k, v in figures.items() if _SHOWN.fullmatch(k) and not _TOPS.search(k)}


def _config(poisoned: Start, overrides: Mapping[str, str]) -> ConfigDict:
    """The poisoned model's config, which says what is measured, with an attack by a picture."""
    config = poisoned.config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        evaluation = config.evaluation
        for key in ("retrieval", "floor", "sets", "repair", "metrics"):
            evaluation[key] = None
        evaluation.projection, evaluation.control, evaluation.branches = 0, False, False
    measured = {k: v for k, v in overrides.items() if k.startswith(("evaluation.", "mesh."))}
    apply(config, measured)
    check(config)
    attack = config.evaluation.attack
    if attack is None:
        raise UserError(
            f"--poisoned={poisoned.path} has no attack: name the run that was poisoned, or its "
            "trigger with --config.evaluation.attack"
        )
    for part in parts_of(attack.to_dict(), "evaluation.attack"):
        if part.targeted or part.word is not None or part.trigger.name == NONE:
            raise UserError(
                f"{part.where}: {part} is no trigger of pictures alone, which this measures"
            )
    return config


def _check_models(starts: Mapping[str, Start]) -> None:
    """Refuses models that are of several architectures, and a floor that was poisoned."""
    for name in (POISONED, FLOOR):
        if name in starts:
            common_tokenizer(starts[CLEANED], starts[name])
            _ = starts[name].identity  # an error where it has no checkpoint
    _ = starts[CLEANED].identity
    start, seen = starts.get(FLOOR), set()
    while isinstance(start, RunStart) and start.path not in seen:
        if start.config.attack is not None:
            raise UserError(
                f"--floor={starts[FLOOR].path}: {start.path} was poisoned: name a model that "
                "never was, nor what it began with"
            )
        seen.add(start.path)
        before = start.config.start and workdir_path(start.config.start)
        there = bool(before) and Workdir(before).has(CONFIG)
        start = open_start(before) if there else None
