"""What a scan is of: a run's pairs or others, with what is known of them, and who scores them."""

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.scores import read_columns
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.detect.detectors import DETECTORS
from cleanclip_jax.detect.embedded import Data
from cleanclip_jax.detect.scan import Pass
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.measure.features import Reading, reading_of
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import RunStart, Start, open_start
from cleanclip_jax.start.store import steps_of
from cleanclip_jax.workdir import CHECKPOINTS, INPUTS, MANIFEST, Workdir, workdir_path

log = logging.getLogger(__name__)

# The share of poisons that is assumed where nobody knows it.
RATE = 0.001


@dataclass(frozen=True)
class Opened:
    """A scan that nothing is left to refuse of.

    Attributes:
      model, floor: what identifies them.
    """

    data: Data
    passes: list[Pass]
    reading: Reading
    model: Mapping[str, Any]
    floor: Mapping[str, Any] | None
    warnings: list[str]


def open_scan(
    start: Start,
    config: ConfigDict,
    settings: Settings,
    source: Mapping[str, Any] | None = None,
    truth: str | None = None,
    floor: str | None = None,
    rate: float | None = None,
) -> Opened:
    """Opens a dataset and the models that score it.

    Args:
      source: other pairs than the run was trained on.
      truth: a file of ids of its poisons; None: the run's manifest, where it is the run's data.
      floor: a model that was never poisoned; start: what the run began with.
      rate: the share of poisons that is assumed; None: what is known, or `RATE`.
    """
    data = _open_data(start, config, source, truth)
    count = len(data.source)
    if count <= settings.k:
        raise UserError(f"{count} pairs are too few for --k={settings.k} neighbours of each")
    begun = config.start if floor == "start" else floor
    if floor and not begun:
        raise UserError("--floor=start: this run began with fresh weights: name a clean model")
    below = open_start(workdir_path(begun), config) if begun else None
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    if rate is None:
        rate = RATE if data.poisoned is None else float(data.poisoned.mean())
    warnings = [text] if (text := settings.hidden_poisons(count, rate)) else []
    for text in warnings:
        log.warning("%s", text)
    return Opened(
        data,
        _passes(settings.detectors, start, config, below, mesh),
        reading_of(config),
        _identity(start),
        below and _identity(below),
        warnings,
    )


def _open_data(
    start: Start, config: ConfigDict, source: Mapping[str, Any] | None, truth: str | None
) -> Data:
    workdir, plan, poisoned = Workdir(start.path), None, None
    of_run = source is None
    if source is None:
        if not config.data.train or not isinstance(start, RunStart):
            raise UserError(f"{start.path} names no pairs: give them with --source")
        source = config.data.train.to_dict()
    pairs: Source = open_source(source)
    if of_run:
        _check_same(workdir, pairs)
        if workdir.has(MANIFEST):
            plan = Plan.load(workdir / MANIFEST, pairs)
            poisoned = np.isin(np.arange(len(pairs)), plan.index)
    if truth is not None:
        poisoned = np.isin(pairs.ids(), read_columns(truth, pairs, ("id",))["id"].to_numpy())
    return Data(pairs, plan, poisoned)


def _check_same(workdir: Workdir, pairs: Source) -> None:
    known = workdir.read_json(INPUTS).get("data") if workdir.has(INPUTS) else None
    if known is not None and known["fingerprint"] != pairs.fingerprint:
        raise UserError(
            f"{workdir} was trained on other pairs than config.data.train gives now "
            f"({known['pairs']} of dataset {known['fingerprint'][:12]}, and now {len(pairs)} of "
            f"{pairs.fingerprint[:12]}): bring those files back, or name pairs with --source"
        )


def _passes(
    names: tuple[str, ...], start: Start, config: ConfigDict, below: Start | None, mesh: Mesh
) -> list[Pass]:
    """The run, then its floor, then its checkpoints: those that a detector is scored by."""
    every = dict.fromkeys(part for name in names for part in (*DETECTORS[name].of, name))
    by: dict[str, dict] = {"run": {}, "floor": {}, "checkpoints": {}}
    for name in every:
        if DETECTORS[name].score is not None:
            by[DETECTORS[name].by][name] = DETECTORS[name]
    passes = [Pass("run", partial(encoder_from, start, mesh, config), by["run"])]
    if by["floor"] and below is not None:
        passes.append(Pass("floor", partial(encoder_from, below, mesh, None), by["floor"]))
    if by["checkpoints"]:
        if not isinstance(start, RunStart):
            raise UserError(f"--detectors: a loss is of a run's checkpoints: {start.path} is one")
        with closing(steps_of(start.path / CHECKPOINTS)) as there:
            steps = there.steps()
        for step in steps:
            load = partial(encoder_from, start, mesh, config, step)
            passes.append(Pass(f"step_{step}", load, by["checkpoints"]))
    return passes


def _identity(start: Start) -> dict[str, Any]:
    return dict(start.identity)
