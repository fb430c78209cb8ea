"""`cleanclip persist`: whether a backdoor that was cleaned away stays away.

    cleanclip persist --workdir=runs/cleaned --poisoned=runs/badnet --floor=runs/clean

Five looks at it, each beside the same at a model that was never poisoned (--floor): the path of
weights to the poisoned model; finetuning with a few poisons among the cleaning pairs (retune) and
without (rebound); a perturbation of all pictures that wakes the trigger (reactivation); layers and
embeddings compared (presence). The same command goes on with what is not there yet. docs/persist.md
says what each shows, and what it costs.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.cleaning.cleaning_settings import source_of
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.files import write_whole, writing
from cleanclip_jax.jobs.mix import read_alphas
from cleanclip_jax.persist.path import measure_path
from cleanclip_jax.persist.presence import measure_presence
from cleanclip_jax.persist.reactivation import measure_reactivation
from cleanclip_jax.persist.trial import Settings, Trial
from cleanclip_jax.persist.tuning import SHARED, base, measure_tuned, steps_of_epoch
from cleanclip_jax.process import keep_compiled, keep_memory
from cleanclip_jax.report.document import PAGE
from cleanclip_jax.report.page import Code, Section, write_page
from cleanclip_jax.report.persist_rows import CLEANED, FLOOR, FOLDER, PERSIST, PICTURE, POISONED
from cleanclip_jax.report.persisted import HEADING, as_text, shown_of
from cleanclip_jax.start.start import RunStart, Start, open_start
from cleanclip_jax.workdir import workdir_path

PROTOCOLS = ("path", "retune", "rebound", "reactivation", "presence")
FLAGGED = {
    "data.train": "--data",
    "optimizer.learning_rate": "--rates",
    "train.epochs": "--epochs",
    "train.steps": "--epochs",
    "train.checkpoint_every": "--epochs",
    "train.keep": "--epochs",
}


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser("cleanclip persist", description=__doc__)
    add = parser.add_argument
    add("--workdir", required=True, type=workdir_path, help="the cleaned model: its run, or a "
        "PyTorch checkpoint")  # fmt: skip
    add("--poisoned", required=True, type=workdir_path, help="the run before it was cleaned, "
        "which says what is measured")  # fmt: skip
    add("--floor", type=workdir_path, help="a model that was never poisoned")
    add("--output", type=workdir_path, help="default: WORKDIR/persist")
    add("--protocols", default=",".join(PROTOCOLS), help="of %(default)s")
    add("--data", help="clean pairs, FILE.csv or {'kind': ..., 'path': ...}; default: those that "
        "WORKDIR was trained on")  # fmt: skip
    add("--seeds", default="0,1,2", help="of finetuning and perturbations (%(default)s)")
    add("--rates", help="learning rates of finetuning; default: WORKDIR's")
    add("--epochs", default="1,2,5", help="of finetuning, at which it is measured (%(default)s)")
    add("--poisons", type=int, default=5, help="put back in retune, of each part (%(default)s)")
    add("--alpha", default="0,0.1,...,1", help="places on the path (%(default)s)")
    add("--radius", type=float, default=0.05, help="of a perturbation, in [0, 1] (%(default)s)")
    add("--step-size", type=float, default=0.05, help="of its descent (%(default)s)")
    add("--rounds", type=int, default=50, help="of its search (%(default)s)")
    add("--pictures", type=int, default=1000, help="that it is sought on (%(default)s)")
    args, overrides = parse(parser, argv)
    keep_memory()
    keep_compiled()
    for key in overrides:
        if key in FLAGGED:
            raise UserError(f"--config.{key} is set by {FLAGGED[key]} here")
        if not key.startswith((*SHARED, "evaluation.", "text.merges")):
            raise UserError(f"--config.{key} can't be changed here")
    flags = {CLEANED: args.workdir, POISONED: args.poisoned, FLOOR: args.floor}
    starts = {name: open_start(path) for name, path in flags.items() if path is not None}
    output = folder_of(args.output, starts[CLEANED])
    trial = Trial(output, starts, settings_of(args, overrides, starts[CLEANED]))
    base(trial)  # keys that are none are refused before anything is written
    if {"retune", "rebound"} & set(trial.settings.protocols):
        steps_of_epoch(trial)
    trial.claim()
    with writing(output):
        trial.write(shlex.join(["cleanclip", "persist", *argv]))
        run_protocols(trial)
        known = {"rows": trial.rows, "command": trial.command}
        write_persist_page(output, known)
    print(as_text(known))
    print(f"written: {output / PERSIST}, {output / PAGE}")
    return 0


def run_protocols(trial: Trial) -> None:
    """Measures what isn't there yet, each part being written as it ends."""

    def say(what: str) -> None:
        print(f"persist: {what}", flush=True)

    for name, start in trial.starts.items():
        row = {"protocol": "before", "model": name}
        if not trial.known(**row):
            say(f"before: {name}")
            trial.once(lambda s=start: trial.measure(trial.encoder(s)), **row)
    for protocol in trial.settings.protocols:
        if protocol == "path":
            measure_path(trial, say)
        elif protocol == "reactivation":
            measure_reactivation(trial, say)
        elif protocol == "presence":
            measure_presence(trial, say)
        else:
            measure_tuned(trial, protocol, say)


def write_persist_page(output: Path, known: Mapping[str, Any]) -> None:
    """Writes the page, and the picture beside it."""
    blocks, png = shown_of(known)
    if png is not None:
        write_whole(output / PICTURE, png)
    intro = "A cleaned model, beside one that was never poisoned, under what may bring it back."
    sections = [Section(HEADING, blocks), Section("Command", [Code([known["command"]])])]
    write_page(output / PAGE, HEADING, intro, sections)


def folder_of(given: Path | None, cleaned: Start) -> Path:
    """Where figures go: by default a folder of the cleaned run's workdir."""
    if given is not None:
        return given
    if not isinstance(cleaned, RunStart):
        raise UserError(f"{cleaned.path} is no workdir: name a folder with --output")
    return cleaned.path / FOLDER


def settings_of(args: Any, overrides: dict[str, str], cleaned: Start) -> Settings:
    """The settings that flags make, each within its range; the rest is the cleaned run's."""
    run = cleaned.config
    for flag, value in (("data", args.data), ("rates", args.rates)):
        if value is None and not isinstance(cleaned, RunStart):
            raise UserError(f"{cleaned.path} is no workdir: give --{flag}")
    data = source_of("data", args.data) if args.data else run.data.train.to_dict()
    rates = numbers("rates", args.rates, float) if args.rates else [run.optimizer.learning_rate]
    protocols = args.protocols.split(",")
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise unknown("--protocols", protocol, PROTOCOLS)
    if isinstance(cleaned, RunStart):
        usual = {"train.batch_size": str(run.train.batch_size)}
        usual |= {"data.workers": str(run.data.workers)}
        overrides = {**usual, **overrides}
    for flag, value, least, most in (
        ("poisons", args.poisons, 1, 10**6),
        ("rounds", args.rounds, 1, 10**6),
        ("pictures", args.pictures, 2, 10**7),
    ):
        if not least <= value <= most:
            raise UserError(f"--{flag}={value}: it takes a whole number, {least} or more")
    for flag, value in (("radius", args.radius), ("step-size", args.step_size)):
        if not 0 < value < (1 if flag == "radius" else 1e6):
            raise UserError(f"--{flag}={value:g}: it is above 0, and a radius below 1")
    alphas = read_alphas("--alpha", args.alpha)
    if not all(0 <= float(alpha) <= 1 for alpha in alphas):
        raise UserError(f"--alpha={args.alpha}: a path has places from 0 to 1")
    seeds, epochs = numbers("seeds", args.seeds, int), numbers("epochs", args.epochs, int)
    if min(seeds) < 0 or min(epochs) < 1 or min(rates) <= 0:
        raise UserError("--seeds are 0 or more, --epochs 1 or more, --rates above 0")
    return Settings(
        *(protocols, data, seeds, rates, epochs, args.poisons, alphas),
        *(args.pictures, args.radius, args.step_size, args.rounds, overrides),
    )


def numbers(flag: str, given: str, kind: type) -> list[Any]:
    """The numbers of 'A,B,C', each once."""
    try:
        values = [kind(word) for word in given.split(",")]
    except ValueError:
        values = []
    if not values or len(set(values)) < len(values) or not all(map(math.isfinite, values)):
        raise UserError(f"--{flag}={given}: give numbers, each once, as 1,2,5")
    return values
