"""`cleanclip sweep`: trains and measures a config over values of its keys.

A sweep that was stopped goes on where it was. Each point is a run with a workdir of its own
under WORKDIR/runs; the tables lie in sweep.json and sweep.csv, CA against ASR in sweep.png, and
with --every the way that each run took in courses.png. `cleanclip report WORKDIR` shows all of it.
"""

import hashlib
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import check, load
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.process import add_flags, begin, is_first
from cleanclip_jax.report.evaluation import check_measured, measure_course, measure_run
from cleanclip_jax.report.sweeps import Grid, Sweep, markdown, short_names, write_sweep
from cleanclip_jax.report.tables import Row, values_of
from cleanclip_jax.run.build import build
from cleanclip_jax.run.checked import open_pairs
from cleanclip_jax.run.group import groups_of, train_group
from cleanclip_jax.run.loop import train
from cleanclip_jax.run.settings import check_workdir, resolve
from cleanclip_jax.run.state import make_objective
from cleanclip_jax.start.start import open_start
from cleanclip_jax.workdir import CONFIG, EVALUATION, Workdir, workdir_path

LONGEST_NAME = 120  # characters of a run's folder


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code: 1 if a run failed."""
    parser = Parser(
        prog="cleanclip sweep",
        description="Trains and measures a config at every combination of the --over values.",
        epilog="{seed} in a value stands for the point's seed, and so for every swept key: "
        "--config.start=runs/poisoned/runs/seed={seed}",
    )
    parser.add_argument("--config", required=True, help="configs/FILE.py[:arg]")
    parser.add_argument("--workdir", required=True, type=workdir_path, help="the sweep's folder")
    parser.add_argument(
        "--over", action="append", required=True, metavar="KEY=A,B", help="a key and its values"
    )
    parser.add_argument(
        "--every",
        metavar="epoch|STEPS",
        help="also measure each run that often on its way; all those checkpoints stay",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="points that differ in optimizer keys alone read each batch once, for all of them: "
        "where reading takes longer than the step",
    )
    add_flags(parser)
    args, overrides = parse(parser, argv)
    joined = {key: text for key, text in overrides.items() if key == "mesh.heartbeat"}
    begin(args, apply(load(args.config), joined).mesh.heartbeat)
    grid = read_grid(args.over)
    if args.every not in (None, "epoch") and not re.fullmatch("[1-9][0-9]*", args.every):
        raise UserError(f"--every={args.every}: it takes epoch, or a number of steps")
    for folder in (args.workdir, args.workdir / "runs"):
        if Workdir(folder).has(CONFIG):
            raise UserError(f"{folder} is a run's workdir: name a folder for the sweep")
    names = [run_name(point) for point in points(grid)]
    if len(set(names)) < len(names):
        raise UserError("--over: two points would have the same folder; name other values")
    for point in points(grid):  # no value is refused when others have been trained with
        check(config := config_of(args.config, overrides, point))
        if config.start is not None and not workdir_path(config.start).exists():
            raise UserError(f"config.start: {config.start} is not there: check the path")
    command = shlex.join(["cleanclip", "sweep", *argv])
    rows: list[Row] = []
    with writing(args.workdir):
        given = args.config, args.workdir, overrides
        failures = train_groups(*given, grid, args.every) if args.together else {}
        for point in points(grid):
            failure = failures.get(folder_of(args.workdir, point))
            rows.append(run_point(*given, point, args.every, failure))
            if is_first():
                write_sweep(args.workdir, Sweep(grid, rows), command)
    if is_first():
        print(markdown(Sweep(grid, rows)))
        print(f"written: {args.workdir}/sweep.json, sweep.csv, sweep.png")
    return 1 if any("error" in row for row in rows) else 0


def read_grid(over: Iterable[str]) -> dict[str, list[str]]:
    """Returns {key: values as text} of `--over` arguments; commas in brackets part no values."""
    grid: dict[str, list[str]] = {}
    for word in over:
        key, equals, values = word.partition("=")
        key = key.removeprefix("config.")
        texts = [value.strip() for value in split_values(values) if value.strip()]
        if not equals or not texts:
            raise UserError(f"--over={word} names no values: write --over=KEY=A,B,C")
        if key in grid or len(set(texts)) < len(texts):
            raise UserError(f"--over={word}: a key or a value is named twice")
        grid[key] = texts
    return grid


def split_values(text: str) -> list[str]:
    """Parts a text at its commas, but for those within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and depth:
            quote = letter
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def points(grid: Grid) -> Iterable[dict[str, str]]:
    """Every combination, the first key varying slowest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def run_name(point: Mapping[str, str]) -> str:
    """The folder of a point's run: 'seed=0,learning_rate=1e-3'."""
    named = short_names(list(point))
    whole = ",".join(f"{named[key]}={value}" for key, value in point.items())
    name = re.sub(r"[^\w.,=+-]", "-", whole)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def config_of(spec: str, overrides: Mapping[str, str], point: Mapping[str, str]) -> ConfigDict:
    """The config of a point's run, whose values stand in the overrides in place of '{key}'."""
    named = short_names(list(point))
    short = {named[key]: value for key, value in point.items()}
    config = apply(load(spec), {key: fill(text, short) for key, text in overrides.items()})
    return apply(config, dict(point))


def folder_of(folder: Path, point: Mapping[str, str]) -> Path:
    """The workdir of a point's run."""
    return folder / "runs" / run_name(point)


def train_groups(
    spec: str, folder: Path, overrides: Mapping[str, str], grid: Grid, every: str | None
) -> dict[Path, UserError]:
    """Trains side by side the points that differ in their optimizers alone; returns the failures.

    Not those that are measured, or that `run_point` refuses.
    """
    runs: dict[Path, ConfigDict] = {}
    for point in points(grid):
        workdir, config = Workdir(folder_of(folder, point)), config_of(spec, overrides, point)
        try:
            if every is not None:
                keep_all(config, every)
            check_measured(resolve(config, workdir), workdir / EVALUATION)
        except UserError:
            continue
        if not workdir.has(EVALUATION):
            runs[workdir.path] = config
    failures: dict[Path, UserError] = {}
    for group in groups_of(runs):
        if len(group) > 1:
            names = ", ".join(path.name for path in group)
            print(f"sweep: {len(group)} runs side by side: {names}", file=sys.stderr)
            failures |= train_group(group)
    return failures


def run_point(
    spec: str,
    folder: Path,
    overrides: Mapping[str, str],
    point: Mapping[str, str],
    every: str | None = None,
    failure: UserError | None = None,
) -> Row:
    """Trains and measures one point, unless that was done; a failure of the run is its row's.

    Args:
      failure: of its training, where it was trained beside others.
    """
    name = run_name(point)
    workdir = Workdir(folder_of(folder, point))
    config = config_of(spec, overrides, point)
    row: Row = {**point, "workdir": str(workdir)}
    print(f"sweep: {name}", file=sys.stderr)
    try:
        if failure is not None:
            raise failure
        if every is not None:
            keep_all(config, every)
        resolved = resolve(config, workdir)
        check_measured(resolved, workdir / EVALUATION)
        evaluation = workdir.read_json(EVALUATION) if workdir.has(EVALUATION) else {}
        if evaluation:
            source = open_pairs(resolved, make_objective(resolved))
            check_workdir(resolved, workdir, source)
        # What lies there may have been measured otherwise, by hand or before a change.
        if evaluation.get("evaluation") != json.loads(json.dumps(resolved.evaluation.to_dict())):
            with build(config, workdir.path) as run:
                train(run)
            resolved = run.config
            evaluation = measure_run(open_start(workdir.path), resolved)
        row |= values_of(evaluation["figures"])
        if every is not None:
            row["course"] = measure_course(open_start(workdir.path), resolved, evaluation)
            if len(row["course"]) < resolved.train.keep:
                print(
                    f"sweep: {name} keeps {len(row['course'])} of {resolved.train.keep} "
                    "checkpoints; remove its folder to have all of them",
                    file=sys.stderr,
                )
    except UserError as error:
        if jax.process_count() > 1:
            raise  # the other processes may be elsewhere in the run
        print(f"sweep: {name} failed: {error}", file=sys.stderr)
        return {**point, "workdir": str(workdir), "error": str(error)}
    return row | ({"start": config.start} if config.start else {})


def keep_all(config: ConfigDict, every: str) -> None:
    """Has a run keep a checkpoint each epoch, or so many steps; no weight changes by it."""
    source = open_pairs(config, make_objective(config))
    epoch = max(1, len(source) // config.train.batch_size)
    steps = epoch if every == "epoch" else int(every)
    total = config.train.epochs * epoch if config.train.steps is None else config.train.steps
    config.train.checkpoint_every = steps
    config.train.keep = -(-total // steps)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Puts a point's values in place of '{key}'; other braces stay."""
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    return text
