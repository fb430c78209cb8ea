"""What decides a cleaning: settings, each within its range, from the flags of `cleanclip clean`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.cleaning.canaries import TRIGGERS
from cleanclip_jax.config import check, load
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.keys import literal

METHODS = {
    "cleanclip": "configs/cleanclip.py",
    "mmcl": "configs/cleanclip.py:mmcl",
    "par": "configs/par.py",
}
# What a user may set of all trainings.
SHARED = ("train.", "data.", "views.", "model.", "mesh.", "optimizer.", "objective.")
# And what flags set.
FLAGGED = {
    "train.steps": "--steps",
    "train.epochs": "--steps",
    "data.train": "--data",
    "optimizer.learning_rate": "--rates",
    "evaluation.data": "--labelled",
    "evaluation.attack": "--canaries",
    "evaluation.retrieval": "--data",
}
# By the width of the embeddings: rates that small models were cleaned at (docs/clean.md), and
# around the paper's for those of its size.
SMALL = 256
RATES = {True: "3e-4,1e-3,2e-3,3e-3", False: "1e-6,3e-6,1e-5,3e-5"}
PLANT_AT = {True: 1e-3, False: 1e-5}
BATCH = 64  # pairs, where neither the user nor a config of the user's says
KINDS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Settings:
    """What decides a cleaning; it is written down, and a folder goes on with the same.

    Attributes:
      model: a workdir or a PyTorch checkpoint.
      data, labelled: sources.
      canaries: names of `canaries.TRIGGERS`.
      rate: of poison, for each canary.
      plant_at: the learning rate of planting.
      methods: names of `METHODS`, or config files.
      rates: learning rates; may be others when a folder goes on, as `methods` and `bound` may.
      bound: above its floor, for the upper end of a canary's ASR.
      drop: share of the cleaning pairs that are set aside; 0: no look.
      overrides: config keys of the user's, as texts.
    """

    model: str
    data: Mapping[str, Any]
    labelled: Mapping[str, Any] | None
    canaries: Sequence[str]
    rate: float
    plant_at: float
    plant_steps: int
    methods: Sequence[str]
    rates: Sequence[float]
    steps: int
    bound: float
    drop: float
    seed: int
    overrides: Mapping[str, str]


# What a folder's models do not depend on.
CHANGEABLE = ("methods", "rates", "bound")


def check_keys(overrides: Mapping[str, str]) -> None:
    """Refuses config keys that flags set, and those that are no part of a cleaning."""
    for key in overrides:
        flag = next((f for k, f in FLAGGED.items() if f"{key}.".startswith(f"{k}.")), None)
        if flag is not None:
            raise UserError(f"--config.{key} is set by {flag} here")
        if not key.startswith((*SHARED, "evaluation.", "start_key", "text.merges")):
            raise UserError(f"--config.{key} can't be changed here")


def config_of_method(method: str, overrides: Mapping[str, str]) -> ConfigDict:
    """The config of a name of `METHODS`, or of a file, with the user's keys."""
    shared = {k: v for k, v in overrides.items() if k.startswith(SHARED)}
    return apply(load(METHODS.get(method, method)), shared)


def source_of(flag: str, text: str) -> dict[str, Any]:
    """A source as a flag names it: a dictionary, or a table by its ending."""
    value = literal(text)
    if isinstance(value, dict):
        return value
    kind = KINDS.get(Path(text).suffix)
    if kind is None:
        raise UserError(
            f"--{flag}={text}: give a {', '.join(KINDS)} file, or {{'kind': ..., 'path': ...}}"
        )
    return {"kind": kind, "path": text}


def settings_of(
    args: Any, data: dict[str, Any], overrides: dict[str, str], features: int, usual: int
) -> Settings:
    """The settings that flags make.

    Args:
      features: the width of the model's embeddings.
      usual: steps, where the flags name none.
    """
    labelled = None if args.labelled is None else source_of("labelled", args.labelled)
    if labelled is not None and set(labelled) == {"kind", "path"}:
        labelled |= {"class_name": "class_name", "caption": None}
    if args.classes is not None:
        overrides = {**overrides, "evaluation.classes": args.classes}
    small = features <= SMALL
    plant_at = PLANT_AT[small] if args.plant_at is None else args.plant_at
    for flag, value, low, high in (
        ("poison", args.poison, 0, 0.3),
        ("bound", args.bound, 0, 1),
        ("plant-at", plant_at, 0, 1),
    ):
        if not low < value <= high:
            raise UserError(f"--{flag}={value:g}: it is above {low} and at most {high}")
    if not 0 <= args.drop < 1:
        raise UserError(f"--drop={args.drop:g}: it is a share, from 0 to below 1")
    methods, canaries = args.methods.split(","), args.canaries.split(",")
    for method in methods:
        if method not in METHODS and ".py" not in method:
            raise unknown("--methods", method, METHODS)
    for canary in canaries:
        if canary not in TRIGGERS:
            raise unknown("--canaries", canary, TRIGGERS)
    for flag, names in (("methods", methods), ("canaries", canaries)):
        if len(set(names)) < len(names):
            raise UserError(f"--{flag}={','.join(names)}: one is named twice")
    for method in ("mmcl", *methods):  # which plants
        check(config_of_method(method, overrides))
    steps = usual if args.steps is None else args.steps
    plant_steps = steps if args.plant_steps is None else args.plant_steps
    for flag, value, least in (
        ("steps", steps, 4),
        ("plant-steps", plant_steps, 4),
        ("invert", args.invert, 0),
        ("seed", args.seed, 0),
    ):
        if value < least:
            raise UserError(f"--{flag}={value}: it takes a whole number, {least} or more")
    return Settings(
        *(str(args.model), data, labelled, canaries, args.poison),
        *(plant_at, plant_steps, methods, _rates(args.rates, small), steps),
        *(args.bound, args.drop, args.seed, overrides),
    )


def _rates(text: str | None, small: bool) -> list[float]:
    try:
        rates = [float(rate) for rate in (RATES[small] if text is None else text).split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate <= 1 for rate in rates) or len(set(rates)) < len(rates):
        raise UserError(f"--rates={text}: give learning rates above 0, as 3e-4,1e-3")
    return rates
