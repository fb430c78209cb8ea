"""Finetuning after a cleaning, on clean pairs, and with a few poisons among them.

The two differ by the poisons alone, so that each is measured beside the other, and both beside the
same on a never poisoned model. Five poisons are arXiv 2410.09838's.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.config import load
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket
from cleanclip_jax.persist.trial import Figures, Trial
from cleanclip_jax.report.persist_rows import CLEANED
from cleanclip_jax.run.members import train_members
from cleanclip_jax.start.start import Start, open_start
from cleanclip_jax.workdir import CHECKPOINTS

MMCL = "configs/cleanclip.py:mmcl"
SHARED = ("train.", "data.", "views.", "model.", "mesh.", "optimizer.")  # a user may set of it
PARTS = {"rebound": False, "retune": True}  # whether poisons are put back
ENOUGH = 20  # poisons beyond those that are needed, of which a filter may leave out some


def measure_tuned(trial: Trial, protocol: str, say: Callable[[str], None]) -> None:
    """CA and ASR after so many epochs of finetuning, model by model, for each rate and seed."""
    for model in trial.models:
        for rate in trial.settings.rates:
            for seed in trial.settings.seeds:
                row = {"protocol": protocol, "model": model, "rate": rate, "seed": seed}
                epochs = [e for e in trial.settings.epochs if not trial.known(**row, at=e)]
                if not epochs:
                    continue
                say(f"{protocol}: {model}, rate {rate:g}, seed {seed}")
                path = _trained(trial, protocol, model, rate, seed)
                start = open_start(path)
                for epoch in epochs:
                    step = epoch * steps_of_epoch(trial)
                    trial.once(partial(_measured, trial, start, step), **row, at=epoch)
                if in_bucket(path) is None:  # figures are written: the weights have served
                    shutil.rmtree(path / CHECKPOINTS)


def _measured(trial: Trial, start: Start, step: int) -> Figures:
    return trial.measure(trial.encoder(start, step))


def _trained(trial: Trial, protocol: str, model: str, rate: float, seed: int) -> Path:
    path = trial.folder / f"runs/{protocol},{model},rate={rate:g},seed={seed}"
    attack = poisons(trial, seed) if PARTS[protocol] else None
    config = tuning_config(trial, trial.starts[model], rate, seed, attack)
    for error in train_members({path: config}).values():
        raise error
    return path


def steps_of_epoch(trial: Trial) -> int:
    """How many steps an epoch on the pairs has."""
    batch = base(trial).train.batch_size
    if batch > len(trial.source):
        raise UserError(
            f"config.train.batch_size {batch} is larger than the data: {len(trial.source)} pairs"
        )
    return len(trial.source) // batch


def base(trial: Trial) -> ConfigDict:
    """What all these trainings have in common: the paper's MMCL, with the user's keys."""
    overrides = {k: v for k, v in trial.settings.overrides.items() if k.startswith(SHARED)}
    return apply(load(MMCL), overrides)


def tuning_config(
    trial: Trial, start: Start, rate: float, seed: int, attack: dict[str, Any] | None
) -> ConfigDict:
    """The config of one training, with a fresh optimizer, which saves where it is measured."""
    config, epochs = base(trial), trial.settings.epochs
    every = math.gcd(*epochs) * steps_of_epoch(trial)
    total = max(epochs) * steps_of_epoch(trial)
    with config.unlocked(), config.ignore_type():
        config.start, config.seed = str(start.path), seed
        config.data.train = ConfigDict(dict(trial.settings.data))
        config.attack = None if attack is None else ConfigDict(attack)
        config.train.steps, config.optimizer.learning_rate = total, rate
        config.train.checkpoint_every, config.train.keep = every, total // every
        config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, total // 4)
    return config


def poisons(trial: Trial, seed: int) -> dict[str, Any]:
    """`config.attack` of a few poisons of each part among the pairs, which lie in a manifest.

    Drawn anew by the seed, with the attack's triggers, targets and captions. The manifest is of
    the whole dataset, and holds just those that the pairs have.
    """
    path = trial.folder / f"poisons,seed={seed}.parquet"
    if not path.is_file():
        few_poisons(trial, seed).save(path)
    return {"manifest": str(path)}


def few_poisons(trial: Trial, seed: int) -> Plan:
    """The plan of `poisons`."""
    few, source = trial.settings.poisons, trial.source
    size, whole = trial.starts[CLEANED].config.model.image_size, len(source.unfiltered())
    given = trial.config.evaluation.attack.to_dict()
    count = few if whole == len(source) else few * -(-whole // len(source)) + ENOUGH
    while True:
        plan = make_plan(_counted(given, count, seed), source, size)
        there = [plan.rows_of(part) for part in range(len(plan.parts))]
        if min(map(len, there)) >= few:
            break
        count *= 2  # an error of the plan's where there are not as many pairs
    rng = np.random.default_rng([seed, few])
    rows = np.concatenate([np.sort(rng.permutation(each)[:few]) for each in there])
    planned = source.root().ids()[plan.table["index"].to_numpy()]
    table = plan.table.filter(np.isin(planned, source.ids()[rows]))
    return replace(plan, table=table, header=_header(plan, few), _subset=None)


def _counted(attack: dict[str, Any], count: int, seed: int) -> dict[str, Any]:
    """The attack with so many poisons of each part, drawn by the seed."""
    alone = {k: v for k, v in attack.items() if k not in ("data", "manifest", "parts")}
    if attack.get("parts") is None:
        return {**alone, "seed": seed, "count": count, "rate": None}
    several = [{**part, "count": count, "rate": None} for part in attack["parts"]]
    return {**alone, "seed": seed, "parts": several}


def _header(plan: Plan, count: int) -> dict[str, Any]:
    """The plan's header with the count that is left."""
    header = json.loads(json.dumps(dict(plan.header)))
    for part in header["attack"].get("parts", [header["attack"]]):
        part["count"] = count
    return header
