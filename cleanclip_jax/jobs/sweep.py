"""`cleanclip sweep`: trains and measures a config over values of its keys.

A sweep that was stopped goes on where it was. Each point is a run with a workdir of its own
under WORKDIR/runs; the tables lie in sweep.json and sweep.csv, CA against ASR in sweep.png, and
with --every the way that each run took in courses.png. `cleanclip report WORKDIR` shows all of it.
"""

import csv
import hashlib
import io
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import jax
from ml_collections import ConfigDict

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import load
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import Labelled
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.jobs.devices import begin, heartbeat_of
from cleanclip_jax.jobs.evaluate import measure
from cleanclip_jax.measure.encoder import subject
from cleanclip_jax.measure.measure import evaluate
from cleanclip_jax.measure.sets import find_target
from cleanclip_jax.process import add_flags, is_first
from cleanclip_jax.report.plots import Point, ca_asr_curve
from cleanclip_jax.report.sweeps import (
    FIGURES,
    LIMITS,
    Grid,
    Row,
    best,
    best_cells,
    cells,
    courses,
    curve,
    figure_over,
    groups,
    intervals_said,
    shares,
    short_names,
)
from cleanclip_jax.run.build import check_workdir, load_run, resolve
from cleanclip_jax.run.loop import train
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.store import open_store
from cleanclip_jax.workdir import workdir_path

LONGEST_NAME = 120  # characters of a run's folder
COURSE = "course.json"


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code: 1 if a run failed."""
    parser = Parser(
        prog="cleanclip sweep",
        description="Trains and measures a config at every combination of the --over values.",
        epilog="{seed} in a value stands for the point's own seed, and so for every swept key: "
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
        help="also measure each run that often on its way; all those checkpoints are kept",
    )
    add_flags(parser)
    asked, overrides = parse(parser, argv)
    begin(asked, heartbeat_of(overrides))
    grid = read_grid(asked.over)
    if asked.every not in (None, "epoch") and not re.fullmatch("[1-9][0-9]*", asked.every):
        raise UserError(f"--every={asked.every}: it takes epoch, or a number of steps")
    for folder in (asked.workdir, asked.workdir / "runs"):
        if (folder / "config.json").is_file():
            raise UserError(f"{folder} is a run's workdir: name a folder of the sweep's own")
    names = [run_name(point) for point in points(grid)]
    if len(set(names)) < len(names):
        raise UserError("--over: two points would have the same folder; name other values")
    command = shlex.join(["cleanclip", "sweep", *argv])
    rows: list[Row] = []
    for point in points(grid):
        rows.append(run_point(asked.config, asked.workdir, overrides, point, asked.every))
        if is_first():
            write_results(asked.workdir, grid, rows, command)
    if is_first():
        print(table(grid, rows))
        print(f"written: {asked.workdir}/sweep.json, sweep.csv, sweep.png")
    return 1 if any("error" in row for row in rows) else 0


def read_grid(over: Iterable[str]) -> dict[str, list[str]]:
    """Returns {key: values as text} of `--over` arguments; commas in brackets part no values.

    Raises:
      UserError: an argument without values, or a key or a value named twice.
    """
    grid: dict[str, list[str]] = {}
    for word in over:
        key, equals, values = word.partition("=")
        key = key.removeprefix("config.")
        found = [value.strip() for value in split_values(values) if value.strip()]
        if not equals or not found:
            raise UserError(f"--over={word} names no values: write --over=KEY=A,B,C")
        if key in grid or len(set(found)) < len(found):
            raise UserError(f"--over={word}: a key or a value is named twice")
        grid[key] = found
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


def run_point(
    spec: str,
    folder: Path,
    overrides: Mapping[str, str],
    point: Mapping[str, str],
    every: str | None = None,
) -> Row:
    """Trains and measures one point, unless that was done; a run's own failure is its row's."""
    named = short_names(list(point))
    short = {named[key]: value for key, value in point.items()}
    name = run_name(point)
    workdir = folder / "runs" / name
    written = {key: fill(text, short) for key, text in overrides.items()}
    config = apply(load(spec), {**written, **point})
    row: Row = {**point, "workdir": str(workdir)}
    path = workdir / "evaluation.json"
    print(f"sweep: {name}", file=sys.stderr)
    try:
        if every is not None:
            keep_all(config, every)
        resolved = resolve(config)
        find_target(resolved.evaluation)
        found = json.loads(path.read_text()) if path.is_file() else {}
        if found:
            check_workdir(resolved, workdir)
        # What lies there may have been measured otherwise, by hand or before a change.
        if found.get("evaluation") != json.loads(json.dumps(resolved.evaluation.to_dict())):
            resolved = train(config, workdir)
            found = measure(workdir, resolved, path)
        row |= shares(found["figures"])
        if every is not None:
            row["course"] = course(workdir, resolved, found)
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
    if config.start:
        row["start"] = config.start
    return row


def keep_all(config: ConfigDict, every: str) -> None:
    """Has a run keep a checkpoint each epoch, or so many steps; no weight changes by it."""
    source = open_source(config.data.train.to_dict())
    if config.objective.classification:
        source = Labelled(source)
    epoch = max(1, len(source) // config.train.batch_size)
    steps = epoch if every == "epoch" else int(every)
    total = config.train.epochs * epoch if config.train.steps is None else config.train.steps
    config.train.checkpoint_every = steps
    config.train.keep = -(-total // steps)


def course(workdir: Path, config: ConfigDict, final: Mapping[str, Any]) -> list[Row]:
    """CA, ASR and their company at each checkpoint that a run has kept, ascending.

    What was measured is remembered in course.json, a step at a time.

    Args:
      final: what was found of the newest checkpoint.
    """
    path = workdir / COURSE
    asked = final["evaluation"]
    known = json.loads(path.read_text()) if path.is_file() else {}
    done = {row["step"]: row for row in known["steps"]} if known.get("evaluation") == asked else {}
    done[final["step"]] = {"step": final["step"], **shares(final["figures"])}
    with open_store(workdir) as (_, store):
        steps = store.steps
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    # The floor and the retrieval are the newest checkpoint's: here it is the way that counts.
    config = config.copy_and_resolve_references()
    config.evaluation.retrieval = None
    for step in steps:
        if step not in done:
            run = load_run(workdir, mesh, config, step)
            measured = subject(run.model, run.variables, run.tokenizer, mesh)
            found = evaluate(config, measured, head=run.head)
            done[step] = {"step": step, **shares(found["figures"])}
        rows = [done[known] for known in sorted(done)]
        if is_first():
            write_whole(path, json.dumps({"evaluation": asked, "steps": rows}, indent=2) + "\n")
    return [done[step] for step in sorted(done)]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Puts a point's values in place of '{key}'; other braces stay."""
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def table(grid: Grid, rows: Sequence[Row]) -> str:
    """Markdown tables: the means over the seeds, and the best CA at each limit of ASR."""
    columns, found = cells(grid, rows)
    lines = [markdown(columns, found), "", intervals_said(grid)]
    chosen = best(grid, rows)
    if chosen:
        lines += ["", "Best CA, the point chosen for each seed on the same pictures:", ""]
        lines.append(markdown(*best_cells(chosen)))
    lines += [f"failed: {row['workdir']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def write_results(folder: Path, grid: Grid, rows: Sequence[Row], command: str) -> None:
    """Writes sweep.json, sweep.csv and, where there is an attack, the curves."""
    means = [
        {
            **dict(zip((key for key in grid if key != "seed"), values, strict=True)),
            "figures": {
                figure: found.to_json()
                for figure in FIGURES
                if (found := figure_over(members, figure)) is not None
            },
        }
        for values, members in groups(grid, rows).items()
    ]
    chosen = [
        {**each, "ca": None if each["ca"] is None else each["ca"].to_json()}
        for each in best(grid, rows)
    ]
    content = {"command": command, "over": grid, "means": means, "best": chosen, "runs": rows}
    write_whole(folder / "sweep.json", json.dumps(content, indent=2) + "\n")
    flat = [flat_row(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_whole(folder / "sweep.csv", text.getvalue())
    start = starting_point(rows)
    if any(row.get("asr") is not None for row in rows):
        write_whole(folder / "sweep.png", ca_asr_curve(curve(grid, rows), start, LIMITS[1]))
    if any("course" in row for row in rows):
        write_whole(folder / "courses.png", ca_asr_curve(courses(grid, rows), start, LIMITS[1]))


def flat_row(row: Row) -> Row:
    """A row without what a table's cell can't hold; intervals as ca_low, ca_high and so on."""
    flat = {key: value for key, value in row.items() if key not in ("intervals", "course")}
    for figure, interval in row.get("intervals", {}).items():
        flat[f"{figure}_low"], flat[f"{figure}_high"] = interval or (None, None)
    return flat


def starting_point(rows: Sequence[Row]) -> Point | None:
    """Where the finetuned runs started from, the mean over the start runs that were measured."""
    paths = sorted(
        {workdir_path(row["start"]) / "evaluation.json" for row in rows if "start" in row}
    )
    figures = [json.loads(path.read_text())["figures"] for path in paths if path.is_file()]
    attacked = [found for found in figures if found.get("asr", {}).get("value") is not None]
    if not attacked:
        return None
    ca, asr = (mean(found[key]["value"] for found in attacked) for key in ("ca", "asr"))
    return Point(ca, asr, "start")
