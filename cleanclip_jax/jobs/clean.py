"""`cleanclip clean`: cleans a model whose trigger nobody knows.

    cleanclip clean ViT-B-32.pt --data=clean.csv --labelled=val.csv --output=cleaned.pt

Without the trigger nobody can see whether a backdoor is gone, nor how high a learning rate it
takes. So backdoors of our own, the canaries, are planted in the model; it is cleaned at rates that
rise, and of the models in which no canary is left the most useful is delivered. Exit code 3: there
is none, and nothing is delivered as clean. The same command goes on after whatever stopped it.
docs/clean.md says what this shows, and what it does not.
"""

import re
import shlex
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.cleaning.canaries import TRIGGERS, USUAL
from cleanclip_jax.cleaning.canary_page import as_json, verdict, write_cleaning_page
from cleanclip_jax.cleaning.choice import Failure, Point, choose, nearest
from cleanclip_jax.cleaning.cleaning import AFRESH, Cleaning, names_of
from cleanclip_jax.cleaning.cleaning_settings import (
    BATCH,
    METHODS,
    SHARED,
    check_keys,
    settings_of,
    source_of,
)
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import folder_written_whole, writing
from cleanclip_jax.jobs import convert
from cleanclip_jax.jobs.of_model import open_model
from cleanclip_jax.keys import literal
from cleanclip_jax.models.clip import variant_of
from cleanclip_jax.process import keep_compiled, keep_memory
from cleanclip_jax.report.document import PAGE
from cleanclip_jax.start.start import RunStart, Start, open_start
from cleanclip_jax.start.torch import SUFFIXES
from cleanclip_jax.workdir import EVALUATION, METRICS, Workdir, workdir_path

RESULTS = "results.json"
NOT_CLEAN = 3  # the exit code
FACTS = ("target", "before", "planted", "took")  # of a canary
EPOCHS, LEAST_STEPS = 2.5, 300  # of a cleaning


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser("cleanclip clean", description=__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", type=workdir_path, help="a workdir, or a PyTorch checkpoint")
    add("--data", required=True, help="pairs to clean on: FILE.csv, or {'kind': ..., 'path': ...}")
    add("--labelled", help="labelled pictures, likewise, by which usefulness is their accuracy")
    add("--classes", help="of --labelled: a file of names")
    add("--output", required=True, type=workdir_path, help="what is delivered; must not exist")
    add("--workdir", type=workdir_path, help="takes all stages; default: OUTPUT.cleaning")
    add("--methods", default="cleanclip", help=f"of {', '.join(METHODS)}, or config files")
    add("--rates", help="learning rates; default: by the model's size")
    add("--steps", type=int, help="of each cleaning; default: 2.5 epochs, 300 at least")
    add("--canaries", default=",".join(USUAL), help=f"of {', '.join(TRIGGERS)} (%(default)s)")
    add("--poison", type=float, default=0.02, help="share of pairs with each canary (%(default)s)")
    add("--plant-at", type=float, help="learning rate of planting; default: by the model's size")
    add("--plant-steps", type=int, help="default: as --steps")
    add("--bound", type=float, default=0.05, help="for a canary, above its floor (%(default)s)")
    add("--drop", type=float, default=0.02, help="suspected pairs left out; 0: no look (0.02)")
    add("--deliver", choices=("canary", "afresh"), default="canary", help="the model that the "
        "canaries were in, cleaned, or MODEL cleaned the same way (%(default)s)")  # fmt: skip
    add("--invert", type=int, default=1, help="searches for the smallest patch; 0: none (1)")
    add("--budget", help="time for all of it, as 90m or 2h: the lowest rates are left out")
    add("--seed", type=int, default=0)
    args, overrides = parse(parser, argv)
    began = time.monotonic()
    keep_memory()
    keep_compiled()
    budget = seconds_of(args.budget)
    if args.output.exists() or args.output.is_symlink():
        raise UserError(f"{args.output} exists: name a new file or folder with --output")
    check_keys(overrides)
    folder = args.workdir or args.output.with_name(f"{args.output.name}.cleaning")
    of_model = {k: v for k, v in overrides.items() if not k.startswith(("train.", "optimizer."))}
    start, config = open_model(args.model, of_model, (*SHARED, "evaluation."))
    if not is_run(start, args.output):  # or this would be seen only after hours
        convert.written_as(args.output, config, start.vocab_size, start.origin())
    source = open_source(data := source_of("data", args.data))
    batch = literal(overrides.get("train.batch_size", str(BATCH)))
    batch = batch if isinstance(batch, int) and batch > 0 else BATCH  # refused by the first run
    usual = max(LEAST_STEPS, round(EPOCHS * len(source) / batch))
    features = variant_of(config.model.variant).features
    settings = settings_of(args, data, overrides, features, usual)
    with writing(folder):
        cleaning = Cleaning(folder, start, config, settings, source)
        end = None if budget is None else began + budget
        results, points, runs = stages(cleaning, args, end)
        results["command"] = shlex.join(["cleanclip", "clean", *argv])
        chosen = results["chosen"] is not None
        cleaning.folder.write_json(RESULTS, results)
        write_cleaning_page(folder, results, points, runs)
        if chosen:
            deliver(list(runs)[-1], args.output, is_run(start, args.output))
    print(verdict(results))
    print(f"written: {folder / RESULTS}, {folder / PAGE}")
    return 0 if chosen else NOT_CLEAN


def stages(
    cleaning: Cleaning, args: Any, end: float | None
) -> tuple[dict[str, Any], list[Point], dict[Path, str]]:
    """Goes through all stages.

    Args:
      end: of the budget, by the monotonic clock.

    Returns:
      what results.json holds; the cleaned models; and every run with its name, the one that is
      delivered, if any, last.
    """
    settings = cleaning.settings
    dropped, held = cleaning.look()
    print(f"clean: {dropped} of {len(cleaning.source)} pairs set aside, {held} held out")
    attack = cleaning.attack()
    print(f"clean: planting {', '.join(settings.canaries)} for {settings.plant_steps} steps")
    planted, floors, before, figures = cleaning.plant(attack)
    canaries = {}
    for name, part in zip(names_of(attack), attack["parts"], strict=True):
        values = (of[f"asr.{name}"]["value"] for of in (before, figures))
        took = "yes" if name in floors else "no: it did not take"
        canaries[name] = dict(zip(FACTS, (part["target"], *values, took), strict=True))
        print(f"  {name} to {part['target']!r}: {100 * canaries[name]['planted']:.1f} %, {took}")
    most = fitting(len(settings.methods) * settings.steps, planted, end, len(settings.rates))
    runs, points, failures = {planted: "canaries planted"}, [], []
    began, total = time.monotonic(), most * len(settings.methods)
    for point in cleaning.points(planted, attack, floors, most):
        if isinstance(point, Failure):
            failures.append(point)
            print(f"clean: {point.method} at {point.rate:g}: no model, {point.why}")
            continue
        points.append(point)
        runs[Path(point.workdir)] = f"{point.method}, {point.rate:g}"
        left = ", ".join(f"{k} {100 * c.asr:.1f} %" for k, c in point.canaries.items())
        print(f"clean: {point.method} at {point.rate:g}: {100 * point.usefulness:.1f} %; {left}")
        minutes = (time.monotonic() - began) / len(points) * (total - len(points)) / 60
        print(f"clean: {len(points)} of at most {total} models, {minutes:.0f} minutes left at most")
    chosen = choose(points)
    results: dict[str, Any] = {
        "settings": vars(settings),
        "pairs": len(cleaning.source),
        "dropped": dropped,
        "held": held,
        "useful_by": "clean accuracy" if settings.labelled else "recall at 1 of held-out pairs",
        "before": cleaning.usefulness(before),
        "planted": canaries,
        "points": [as_json(point) for point in points],
        "failed": failures,
        "chosen": as_json(chosen),
        "nearest": as_json(nearest(points)),
        "smallest": {},
    }
    if chosen is None:
        return results, points, runs
    run, name = Path(chosen.workdir), runs.pop(Path(chosen.workdir))
    if args.deliver == "afresh":
        runs[run], name = name, "cleaned afresh"
        again = cleaning.run(chosen.method, settings.model, chosen.rate, settings.steps)
        run = cleaning.train(AFRESH, again)
    runs[run] = name
    figures = cleaning.measure(open_start(run), run / EVALUATION, attack)
    results |= {"after": cleaning.usefulness(figures), "delivered": str(args.output)}
    if args.invert:
        models = {"before": cleaning.start, "after": open_start(run)}
        results["smallest"] = cleaning.smallest(models, args.invert)
    return results, points, runs


def seconds_of(text: str | None) -> float | None:
    """`--budget` in seconds: 90m, 2h, 3600s; None without one."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise UserError(f"--budget={text}: give a time as 90m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def fitting(steps: int, planted: Path, end: float | None, rates: int) -> int:
    """How many rates of `steps` each there is time for, by what planting took; one at least."""
    if end is None:
        return rates
    rows = [row for row in Workdir(planted).lines(METRICS) if "step_seconds" in row]
    step = statistics.median(row["step_seconds"] for row in rows) if rows else 0.0
    # A step with views encodes twice as much as one of planting.
    each = 2 * step * steps
    most = max(1, min(rates, int((end - time.monotonic()) / max(each, 1e-9))))
    if most < rates:
        print(f"clean: time for the {most} highest of {rates} rates; {rates - most} are left out")
    return most


def is_run(start: Start, output: Path) -> bool:
    """Whether a workdir is delivered, for one that came in."""
    return isinstance(start, RunStart) and output.suffix not in SUFFIXES


def deliver(run: Path, output: Path, workdir: bool) -> None:
    """Hands the cleaned model over in the format that came in."""
    if workdir:
        with folder_written_whole(output) as folder:
            shutil.copytree(run, folder, dirs_exist_ok=True)
        return
    convert.main([str(run), str(output)])
