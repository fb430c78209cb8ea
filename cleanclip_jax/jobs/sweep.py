"""`cleanclip sweep`: trains and measures a config over values of its keys.

A sweep that was stopped goes on where it was. Each point is a run with a workdir of its own
under WORKDIR/runs; the table lies in sweep.json and sweep.csv, CA against ASR in sweep.png.
"""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cleanclip_jax.config import load
from cleanclip_jax.errors import UserError
from cleanclip_jax.evaluation.sets import find_target
from cleanclip_jax.files import write_whole
from cleanclip_jax.jobs.arguments import Parser, apply, parse
from cleanclip_jax.jobs.evaluate import measure
from cleanclip_jax.reporting.figures import Point, ca_asr_curve
from cleanclip_jax.training.loop import train
from cleanclip_jax.training.run import check_workdir, resolve

FIGURES = ("ca", "asr", "asr_all", "pa", "clean_target_rate")
Row = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code: 1 if a run failed."""
    parser = Parser(
        prog="cleanclip sweep",
        description="Trains and measures a config at every combination of the --over values.",
        epilog="{seed} in a value stands for the point's own seed, and so for every swept key: "
        "--config.start=runs/poisoned/runs/seed={seed}",
    )
    parser.add_argument("--config", required=True, help="configs/FILE.py[:arg]")
    parser.add_argument("--workdir", required=True, type=Path, help="the sweep's folder")
    parser.add_argument(
        "--over", action="append", required=True, metavar="KEY=A,B", help="a key and its values"
    )
    asked, overrides = parse(parser, argv)
    grid = read_grid(asked.over)
    for folder in (asked.workdir, asked.workdir / "runs"):
        if (folder / "config.json").is_file():
            raise UserError(f"{folder} is a run's workdir: name a folder of the sweep's own")
    rows = []
    for point in points(grid):
        rows.append(run_point(asked.config, asked.workdir, overrides, point))
        write_results(asked.workdir, grid, rows)
    print(table(grid, rows))
    print(f"written: {asked.workdir}/sweep.json, sweep.csv, sweep.png")
    return 1 if any("error" in row for row in rows) else 0


def read_grid(over: Iterable[str]) -> dict[str, list[str]]:
    """Returns {key: values as text} of `--over` arguments.

    Raises:
      UserError: an argument without values, or a key named twice.
    """
    grid: dict[str, list[str]] = {}
    for word in over:
        key, equals, values = word.partition("=")
        key = key.removeprefix("config.")
        found = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not found:
            raise UserError(f"--over={word} names no values: write --over=KEY=A,B,C")
        if key in grid or len(set(found)) < len(found):
            raise UserError(f"--over={word}: a key or a value is named twice")
        grid[key] = found
    lasts = [last(key) for key in grid]
    if len(set(lasts)) < len(lasts):
        raise UserError(f"--over: two keys end alike ({', '.join(grid)}); sweep one of them")
    return grid


def points(grid: Mapping[str, Sequence[str]]) -> Iterable[dict[str, str]]:
    """Every combination, the first key varying slowest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def last(key: str) -> str:
    """'optimizer.learning_rate' as 'learning_rate'."""
    return key.rsplit(".", 1)[-1]


def run_point(
    spec: str, folder: Path, overrides: Mapping[str, str], point: Mapping[str, str]
) -> Row:
    """Trains and measures one point, unless that was done; a run's own failure is its row's."""
    short = {last(key): value for key, value in point.items()}
    name = ",".join(f"{key}={value}" for key, value in short.items()).replace("/", "-")
    workdir = folder / "runs" / name
    written = {key: fill(text, short) for key, text in overrides.items()}
    config = apply(load(spec), {**written, **point})
    row: Row = {**point, "workdir": str(workdir)}
    path = workdir / "evaluation.json"
    print(f"sweep: {name}", file=sys.stderr)
    try:
        resolved = resolve(config)
        find_target(resolved.evaluation)
        found = json.loads(path.read_text()) if path.is_file() else {}
        if found:
            check_workdir(resolved, workdir)
        # What lies there may have been measured otherwise, by hand or before a change.
        if found.get("evaluation") != json.loads(json.dumps(resolved.evaluation.to_dict())):
            found = measure(workdir, train(config, workdir), path)
    except UserError as error:
        print(f"sweep: {name} failed: {error}", file=sys.stderr)
        return {**row, "error": str(error)}
    figures = found["figures"]
    row |= {key: figures[key]["value"] for key in FIGURES if key in figures}
    if config.start:
        row["start"] = config.start
    return row


def fill(text: str, values: Mapping[str, str]) -> str:
    """Puts a point's values in place of '{key}'; other braces stay."""
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def groups(
    grid: Mapping[str, Sequence[str]], rows: Sequence[Row]
) -> dict[tuple[str, ...], list[Row]]:
    """Rows that differ by their seed only, under the values of the other keys."""
    keys = [key for key in grid if key != "seed"]
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def table(grid: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> str:
    """A Markdown table: mean and standard deviation over the seeds, in percent."""
    keys = [last(key) for key in grid if key != "seed"]
    shown = [figure for figure in FIGURES if any(figure in row for row in rows)]
    lines = [
        f"| {' | '.join([*keys, 'runs', *shown])} |",
        "|---" * (len(keys) + 1 + len(shown)) + "|",
    ]
    for values, members in groups(grid, rows).items():
        good = [row for row in members if "error" not in row]
        cells = [spread([row.get(figure) for row in good]) for figure in shown]
        count = f"{len(good)}" if len(good) == len(members) else f"{len(good)} of {len(members)}"
        lines.append(f"| {' | '.join([*values, count, *cells])} |")
    failed = [f"failed: {row['workdir']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines + failed)


def spread(values: Sequence[float | None]) -> str:
    """'55.4 ± 0.6' of fractions, in percent; one value stands alone."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "—"
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def write_results(folder: Path, grid: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> None:
    """Writes sweep.json, sweep.csv and, where there is an attack, the curve."""
    write_whole(folder / "sweep.json", json.dumps({"over": grid, "runs": rows}, indent=2))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "sweep.csv", text.getvalue())
    if any("asr" in row for row in rows):
        write_whole(folder / "sweep.png", ca_asr_curve(curve(grid, rows), starting_point(rows)))


def curve(grid: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> dict[str, list[Point]]:
    """One line per combination of the other keys, along the learning rate or the first key."""
    keys = [key for key in grid if key != "seed"]
    along = next((key for key in keys if last(key) == "learning_rate"), keys[0] if keys else None)
    lines: dict[str, list[Point]] = {}
    for members in groups(grid, rows).values():
        good = [row for row in members if row.get("asr") is not None]
        if good:
            name = ", ".join(f"{last(key)} {good[0][key]}" for key in keys if key != along)
            label = good[0][along] if along else ""
            ca, asr = (mean(row[figure] for row in good) for figure in ("ca", "asr"))
            lines.setdefault(name or (last(along) if along else "runs"), []).append(
                Point(ca, asr, label)
            )
    return lines


def starting_point(rows: Sequence[Row]) -> Point | None:
    """Where the finetuned runs started from, the mean over the start runs that were measured."""
    paths = sorted({Path(row["start"]) / "evaluation.json" for row in rows if "start" in row})
    figures = [json.loads(path.read_text())["figures"] for path in paths if path.is_file()]
    attacked = [found for found in figures if found.get("asr", {}).get("value") is not None]
    if not attacked:
        return None
    ca, asr = (mean(found[key]["value"] for found in attacked) for key in ("ca", "asr"))
    return Point(ca, asr, "start")
