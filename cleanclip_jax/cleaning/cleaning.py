"""Cleaning in stages, each of which is not done again once it is done: look, plant, sweep.

The folder of a cleaning holds a run for each training (`planted`, `METHOD,RATE`, `afresh`), and
`look/`, what the detectors say of the cleaning pairs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.cleaning.aside import suspected, write_held
from cleanclip_jax.cleaning.canaries import LEAST_PICTURES, attack_of
from cleanclip_jax.cleaning.choice import Canary, Failure, Point, passes
from cleanclip_jax.cleaning.cleaning_settings import (
    BATCH,
    CHANGEABLE,
    METHODS,
    Settings,
    config_of_method,
)
from cleanclip_jax.config import defaults
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.detect.decree import smallest_patch
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.clean_pictures import clean_pictures
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.measure.sets import open_sets
from cleanclip_jax.record import Source
from cleanclip_jax.report.evaluation import measure_run
from cleanclip_jax.run.members import train_members
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import Start, open_start
from cleanclip_jax.workdir import EVALUATION, NOT_FINITE, Workdir

CLEAN, TRAIN, HELD = "clean.json", "train.parquet", "held.parquet"
SUSPECT, INVERTED = "before.json", "inverted.json"
LOOK, PLANTED, AFRESH = "look", "planted", "afresh"
MOST_HELD, HELD_SHARE = 1000, 0.1  # of the pairs, to retrieve from
TOOK = 0.5  # ASR from which a canary counts as planted
SEARCH = {"steps": 500, "pictures": 256}  # for the smallest patch, before and after
SHAPE = {"settings": dict}


class Cleaning:
    """A model, the pairs to clean it on, and the folder that takes all stages."""

    def __init__(
        self, folder: Path, start: Start, config: ConfigDict, settings: Settings, source: Source
    ):
        self.folder, self.start, self.settings = Workdir(folder), start, settings
        self.config, self.source = config, source
        self.mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        self._agree()

    def _agree(self) -> None:
        """Refuses a folder whose models come of other settings."""
        now = json.loads(json.dumps(asdict(self.settings)))
        now |= {"data_fingerprint": self.source.fingerprint}
        now |= {"model_digest": self.start.identity.get("digest")}
        if self.folder.has(CLEAN):
            before = self.folder.read_json(CLEAN, SHAPE, "remove it")["settings"]
            other = [k for k in now if before.get(k) != now[k] and k not in CHANGEABLE]
            if other:
                raise UserError(
                    f"{self.folder} holds a cleaning with another {other[0]}: "
                    f"{before.get(other[0])!r}, now {now[other[0]]!r}; name another --workdir"
                )
        self.folder.write_json(CLEAN, {"settings": now})

    def look(self) -> tuple[int, int]:
        """Sets suspected poisons aside, and others to be measured on; returns how many of each."""
        ids, settings = self.source.ids(), self.settings
        count = min(MOST_HELD, int(HELD_SHARE * len(ids)))
        if count < LEAST_PICTURES:
            raise UserError(f"--data: {len(ids)} pairs are too few to clean on")
        rows = np.sort(np.random.default_rng([settings.seed, 3]).permutation(len(ids))[:count])
        dropped = np.zeros(0, np.int64)
        if settings.drop:
            scanned = (self.folder / LOOK, self.start, self.config, settings.data, settings.drop)
            dropped = suspected(*scanned, self.source)
        left = rows[~np.isin(ids[rows], dropped)]
        train = np.setdiff1d(np.setdiff1d(ids, ids[rows]), dropped)
        if not self.folder.has(TRAIN):
            write_ids(self.folder / TRAIN, train, self.source.root().fingerprint)
        if not self.folder.has(HELD):
            write_held(self.folder / HELD, self.config, self.source, left)
        return len(dropped), len(left)

    def evaluation(self, attack: Mapping[str, Any] | None) -> ConfigDict:
        """`config.evaluation` of everything that is measured here."""
        held = {"kind": "parquet", "path": str(self.folder / HELD)}
        config = apply(defaults(), self.overrides("evaluation."))
        evaluation = config.evaluation
        with evaluation.unlocked(), evaluation.ignore_type():
            evaluation.data = ConfigDict(
                dict(self.settings.labelled or {**held, "class_name": "class_name"})
            )
            evaluation.retrieval = ConfigDict(held)
            evaluation.attack = None if attack is None else ConfigDict(_of_parts(attack))
        return evaluation

    def overrides(self, *prefixes: str) -> dict[str, str]:
        """The user's keys that begin with one of these."""
        return {k: v for k, v in self.settings.overrides.items() if k.startswith(prefixes)}

    def attack(self) -> dict[str, Any]:
        """`config.attack` of the canaries."""
        evaluation = self.evaluation(None)
        (labelled, *_) = open_sets(evaluation)
        counts = np.bincount(labelled.labels[labelled.indices], minlength=len(labelled.classes))
        able = [c for c, n in zip(labelled.classes, counts, strict=True) if n >= LEAST_PICTURES]
        s = self.settings
        templates = evaluation.templates or "imagenet"
        size = self.config.model.image_size
        return attack_of(s.canaries, able, templates, s.rate, s.seed, size)

    def measure(self, start: Start, path: Path, attack: Mapping[str, Any]) -> dict[str, Any]:
        """The figures of a model, which are measured once."""
        config = start.config.copy_and_resolve_references()
        with config.unlocked(), config.ignore_type():
            config.evaluation = self.evaluation(attack)
            config.mesh = self.config.mesh
        known = Workdir(path.parent)
        if known.has(path.name):
            evaluation = known.read_json(path.name)
            if evaluation["evaluation"] == json.loads(json.dumps(config.evaluation.to_dict())):
                return evaluation["figures"]
        return measure_run(start, config, path)["figures"]

    def train(self, name: str, config: ConfigDict) -> Path:
        """Trains a run of the folder to its end."""
        path = self.folder / name
        for error in train_members({path: config}).values():
            raise error
        return path

    def run(self, method: str, start: str, rate: float, steps: int) -> ConfigDict:
        """The config of a run on the cleaning pairs.

        Args:
          method: a name of `METHODS`, or a config file.
        """
        config = config_of_method(method, self.settings.overrides)
        filtered = {k: v for k, v in self.settings.data.items() if k not in ("keep", "skip")}
        with config.unlocked(), config.ignore_type():
            config.start, config.seed = start, self.settings.seed
            config.data.train = ConfigDict({**filtered, "keep": str(self.folder / TRAIN)})
            config.train.steps = steps
            if method in METHODS and "train.batch_size" not in self.settings.overrides:
                config.train.batch_size = BATCH
            if (first := config.optimizer.first_rate) is not None:  # PAR's schedule, scaled
                config.optimizer.first_rate = rate
                rate *= config.optimizer.learning_rate / first
            config.optimizer.learning_rate = rate
            config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 4)
            config.train.checkpoint_every = steps
            if start == self.settings.model:
                config.start_key = defaults().start_key
                apply(config, self.overrides("start_key"))
        return config

    def plant(
        self, attack: Mapping[str, Any]
    ) -> tuple[Path, dict[str, float], dict[str, Any], dict[str, Any]]:
        """Plants the canaries by MMCL; returns the run, each one's floor, and the figures before
        and after.

        Raises:
          UserError: if none of them took.
        """
        s = self.settings
        before = self.measure(self.start, self.folder / SUSPECT, attack)
        config = self.run("mmcl", s.model, s.plant_at, s.plant_steps)
        with config.unlocked(), config.ignore_type():
            config.attack = ConfigDict(dict(attack))
        path = self.train(PLANTED, config)
        planted = self.measure(open_start(path), path / EVALUATION, attack)
        asr = {name: planted[f"asr.{name}"]["value"] for name in names_of(attack)}
        floors = {n: before[f"asr.{n}"]["value"] for n, value in asr.items() if value >= TOOK}
        if not floors:
            values = ", ".join(f"{name} {100 * value:.0f} %" for name, value in asr.items())
            raise UserError(
                f"no canary took ({values}): nothing can be seen by them; plant with more "
                "--plant-steps, at another --plant-at or with a higher --poison"
            )
        return path, floors, before, planted

    def points(
        self, planted: Path, attack: Mapping[str, Any], floors: Mapping[str, float], most: int
    ) -> Iterator[Point | Failure]:
        """Cleans the planted model by each method, at rates that rise.

        A rate at which the loss is no finite number is a failure, and ends its method: higher ones
        would fare no better. Past a point that passes a method ends where it has become less
        useful: a higher rate takes more accuracy, and nothing is left to be taken out.

        Args:
          most: how many rates of a method there is time for: the highest.
        """
        for method in self.settings.methods:
            best = -1.0
            for rate in sorted(self.settings.rates)[-most:]:
                name = f"{method},{rate:g}".replace("/", "-")
                config = self.run(method, str(planted), rate, self.settings.steps)
                if not self._is_finite(name, config):
                    yield Failure(method, rate, "its loss is no finite number")
                    break
                path = self.folder / name
                point = self.point(method, rate, path, attack, floors)
                yield point
                if best >= point.usefulness and passes(point):
                    break
                best = max(best, point.usefulness) if passes(point) else best

    def _is_finite(self, name: str, config: ConfigDict) -> bool:
        """Trains a run to its end; False: its loss is no finite number, now or before."""
        seen = Workdir(self.folder / name)
        if seen.has(NOT_FINITE):
            return False
        try:
            self.train(name, config)
        except UserError:
            if not seen.has(NOT_FINITE):
                raise
            return False
        return True

    def point(
        self,
        method: str,
        rate: float,
        path: Path,
        attack: Mapping[str, Any],
        floors: Mapping[str, float],
    ) -> Point:
        """What a cleaned model is worth, and what is left of each canary."""
        figures = self.measure(open_start(path), path / EVALUATION, attack)
        canaries = {}
        for name, before in floors.items():
            asr = figures[f"asr.{name}"]
            # A cleaned model may take more clean pictures for the target than MODEL did.
            floor = max(before, figures[f"clean_target_rate.{name}"]["value"])
            limit = floor + self.settings.bound
            canaries[name] = Canary(asr["value"], asr["interval"][1], floor, limit)
        return Point(method, rate, str(path), self.usefulness(figures), figures, canaries)

    def usefulness(self, figures: Mapping[str, Any]) -> float:
        """CA where labelled pictures were given; else the mean recall of held-out pairs."""
        both = ("retrieval.image_to_text_r1", "retrieval.text_to_image_r1")
        names = ("ca",) if self.settings.labelled else both
        return float(np.mean([figures[name]["value"] for name in names]))

    def smallest(self, starts: Mapping[str, Start], seeds: int) -> dict[str, list[float | None]]:
        """DECREE's smallest patch of each model, as a share of the picture, by seed."""
        shape = {str: [(float, None)]}
        known = (
            self.folder.read_json(INVERTED, shape, "remove it") if self.folder.has(INVERTED) else {}
        )
        for name, start in starts.items():
            if len(known.get(name, [])) >= seeds:
                continue
            pictures = clean_pictures(self.config, self.source, SEARCH["pictures"], 0)
            tower = Tower(encoder_from(start, self.mesh))
            searches = [
                smallest_patch(tower, pictures, SEARCH["steps"], seed=i) for i in range(seeds)
            ]
            known[name] = [search.share for search in searches]
            self.folder.write_json(INVERTED, known)
        return {name: known[name] for name in starts}


def names_of(attack: Mapping[str, Any]) -> list[str]:
    """The canaries' names, as their figures' end in them."""
    return [part.name for part in parts_of(_of_parts(attack), "evaluation.attack")]


def _of_parts(attack: Mapping[str, Any]) -> dict[str, Any]:
    """An attack as it is measured: without how many pairs it poisons."""
    parts = [{k: v for k, v in part.items() if k != "rate"} for part in attack["parts"]]
    return {**attack, "parts": parts}
