"""What a sweep's runs give together: means over seeds, lines of the curve, the best at an ASR."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from cleanclip_jax.errors import printable
from cleanclip_jax.report.plots import Point, ca_asr_curve
from cleanclip_jax.report.tables import (
    FIGURES,
    PICTURES,
    SEEDS,
    Frame,
    Row,
    over_rows,
    spread,
    table_of,
)
from cleanclip_jax.workdir import EVALUATION, INTERVAL, Workdir, workdir_path

LIMITS = (0.01, 0.05, 0.10)  # of ASR
SEED, SWEEP = "seed", "sweep.json"
_FIGURES = {f"{key}?": float | None for key in FIGURES} | {"intervals?": {str: INTERVAL}}
_ROW = {"workdir": str, "error?": str, "start?": str, **_FIGURES}
SHAPE = {  # of sweep.json
    "over": {str: [str]},
    "runs": [{**_ROW, "course?": [{"step": int, **_FIGURES}]}],
    "command?": str,
}

Grid = Mapping[str, Sequence[str]]
Cells = tuple[list[str], list[list[str]]]  # a table's columns and rows


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """{'optimizer.learning_rate': 'learning_rate'}; keys that end alike keep their whole names."""
    lasts = [key.rsplit(".", 1)[-1] for key in keys]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)
    }


@dataclass(frozen=True)
class Sweep:
    """A sweep's keys with their values, and a row for each run, as sweep.json holds them.

    A line of the curve runs along one key: the learning rate, else the first. It holds one
    combination of the others but the seed.
    """

    over: Grid
    rows: Sequence[Row]

    @cached_property
    def names(self) -> dict[str, str]:
        """The keys' short names."""
        return short_names(list(self.over))

    @cached_property
    def keys(self) -> list[str]:
        """The keys but for the seed."""
        return [key for key in self.over if key != SEED]

    @cached_property
    def along(self) -> str | None:
        """The key that the lines run along; None: there are seeds alone."""
        rates = [key for key in self.keys if key.endswith("learning_rate")]
        return (rates or self.keys or [None])[0]

    @property
    def only_line(self) -> str:
        """What a line is called where there is one alone."""
        return self.names[self.along] if self.along else "runs"

    @cached_property
    def table(self) -> Frame:
        """A row for each measured checkpoint: each run's `newest`, and those on its way after it.

        Columns: the keys and figures; `group`, the values of all keys but the seed; `line` and
        `point` on it; `where`, the point in words; `step`, 0 of a newest; `error` of a failed run.
        """
        rows: list[Row] = []
        for row in self.rows:
            facts = {key: row[key] for key in self.over} | {
                "group": self._words(row, self.keys),
                "line": self._words(row, [key for key in self.keys if key != self.along]),
                "point": row[self.along] if self.along else "",
                "where": self._words(row, [self.along]) if self.along else "as configured",
            }
            newest = {SEED: "", "error": None, "step": 0, "newest": True}
            rows.append({**newest, **facts, **row})
            for way in row.get("course", ()):
                where = f"{facts['where']}, step {way['step']}"
                rows.append({**newest, **facts, **way, "newest": False, "where": where})
        table = table_of(rows)
        missing = [figure for figure in FIGURES if figure not in table]
        return table.reindex(columns=[*table.columns, *missing])

    def _words(self, row: Row, keys: Sequence[str]) -> str:
        return ", ".join(f"{self.names[key]} {row[key]}" for key in keys)

    def curve(self) -> dict[str, list[Point]]:
        """Each line's points, means over the seeds."""
        return _lines(self.table, self.table.newest, "line", "point", self.only_line)

    def courses(self) -> dict[str, list[Point]]:
        """CA and ASR as training goes on: a line a group, its points named by their steps.

        A point is the mean over the seeds that were measured at its step.
        """
        return _lines(self.table, ~self.table.newest, "group", "step", "runs")

    def best(self) -> list[dict[str, Any]]:
        """The best CA at each limit of ASR, line by line, chosen for each seed by itself.

        Chosen among the line's points and, where they were measured, the steps on the way to them;
        the choice is made on the pictures that CA and ASR are counted on, which flatters it a
        little.

        Returns:
          a dictionary a line and limit: "line", "limit", "ca" (the spread, None where no seed stays
          below), "chosen" ({seed: where}), "seeds" how many there are.
        """
        rows = []
        for line, places in self.table.groupby("line", sort=False):
            places = places[places.ca.notna()]
            if places.asr.isna().all():
                continue
            seeds = places[SEED].nunique()
            for limit in LIMITS:
                below = places[places.asr <= limit]
                chosen = below.loc[below.groupby(SEED, sort=False).ca.idxmax()]
                # The interval of one run's pictures is none over several seeds.
                ca = over_rows(chosen, "ca") if seeds == 1 else spread(chosen.ca.tolist())
                where = dict(zip(chosen[SEED].astype(str), chosen["where"], strict=True))
                rows.append(
                    {"line": line or self.only_line, "limit": limit, "ca": ca}
                    | {"chosen": where, "seeds": seeds}
                )
        return rows

    @cached_property
    def groups(self) -> list[Frame]:
        """The newest checkpoints of runs that differ by their seed alone."""
        newest = self.table[self.table.newest]
        return [members for _, members in newest.groupby("group", sort=False)]

    def means(self) -> list[Row]:
        """The keys' values and each figure's spread over the seeds, as sweep.json has them."""
        rows = []
        for members in self.groups:
            spreads = {figure: over_rows(members, figure) for figure in FIGURES}
            figures = {figure: asdict(each) for figure, each in spreads.items() if each}
            rows.append({**members[self.keys].iloc[0], "figures": figures})
        return rows

    def cells(self) -> Cells:
        """The table of means: the keys, how many runs, the figures."""
        shown = [figure for figure in FIGURES if self.table[figure].notna().any()]
        rows = []
        for members in self.groups:
            good, count = members[members.error.isna()], len(members)
            runs = f"{count}" if len(good) == count else f"{len(good)} of {count}"
            values = [str(over_rows(good, figure) or "—") for figure in shown]
            rows.append([*members[self.keys].iloc[0], runs, *values])
        return [*(self.names[key] for key in self.keys), "runs", *shown], rows

    @property
    def several(self) -> bool:
        """Whether there is more than one seed."""
        return len(self.over.get(SEED, ())) > 1

    @property
    def each_seed(self) -> str:
        """How a point is chosen of several seeds, in words."""
        return "for each seed by itself, " if self.several else ""

    @property
    def intervals(self) -> str:
        """What the intervals of the table of means are."""
        if self.several:
            return f"In percent: {SEEDS}; of a single run, Wilson's."
        return f"In percent: {PICTURES}."


def markdown(sweep: Sweep) -> str:
    """Markdown tables: the means over the seeds, and the best CA at each limit of ASR."""
    lines = [_markdown(sweep.cells()), "", sweep.intervals]
    if best := sweep.best():
        lines += ["", f"Best CA, the point chosen {sweep.each_seed}on the same pictures:", ""]
        lines.append(_markdown(best_cells(best)))
    failed = [f"failed: {row['workdir']}: {row['error']}" for row in sweep.rows if "error" in row]
    return "\n".join([*lines, *map(printable, failed)])


def write_sweep(folder: Path, sweep: Sweep, command: str) -> None:
    """Writes sweep.json, sweep.csv and, where there is an attack, the curves."""
    best = [{**each, "ca": each["ca"] and asdict(each["ca"])} for each in sweep.best()]
    content = {"command": command, "over": sweep.over, "means": sweep.means(), "best": best}
    workdir = Workdir(folder)
    workdir.write_json(SWEEP, {**content, "runs": sweep.rows})
    workdir.write("sweep.csv", table_of(sweep.rows).to_csv(index=False, lineterminator="\n"))
    start = _starting_point(sweep.rows)
    if sweep.table[sweep.table.newest].asr.notna().any():
        workdir.write("sweep.png", ca_asr_curve(sweep.curve(), start, LIMITS[1]))
    if any("course" in row for row in sweep.rows):
        workdir.write("courses.png", ca_asr_curve(sweep.courses(), start, LIMITS[1]))


def _starting_point(rows: Sequence[Row]) -> Point | None:
    """Where the finetuned runs started from, the mean over the start runs that were measured."""
    starts = (
        Workdir(workdir_path(start)) for start in sorted({r["start"] for r in rows if "start" in r})
    )
    figures = [each.read_json(EVALUATION)["figures"] for each in starts if each.has(EVALUATION)]
    attacked = [each for each in figures if each.get("asr", {}).get("value") is not None]
    if not attacked:
        return None
    ca, asr = (mean(each[key]["value"] for each in attacked) for key in ("ca", "asr"))
    return Point(ca, asr, "start")


def _markdown(cells: Cells) -> str:
    columns, rows = cells
    cut = [[printable(cell).replace("|", r"\|") for cell in row] for row in (columns, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cut]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def best_cells(best: Sequence[Mapping[str, Any]]) -> Cells:
    """`Sweep.best` as a table: a row for each line of the curve, a column for each limit."""
    rows: dict[str, list[str]] = {}
    for each in best:
        ca, seeds = each["ca"], each["seeds"]
        count = "" if ca is None or ca.n == seeds else f" ({ca.n} of {seeds} seeds)"
        rows.setdefault(each["line"], [each["line"]]).append(f"{ca or 'none'}{count}")
    return ["line", *(f"ASR ≤ {100 * limit:g} %" for limit in LIMITS)], list(rows.values())


def _lines(table: Frame, rows: Frame, line: str, point: str, only: str) -> dict[str, list[Point]]:
    """Mean CA and ASR of those `rows` that have both, line by line, in the order of the table.

    Points keep their places where a run of theirs failed; steps ascend.
    """
    lines: dict[str, list[Point]] = {}
    both = table[["ca", "asr"]]
    measured = both.where(rows & both.notna().all(axis=1))
    for name, places in measured.groupby(table[line], sort=False):
        means: Frame = places.groupby(table[point], sort=point == "step").mean().dropna()
        points = zip(means.index, means.ca, means.asr, strict=True)
        if len(means):
            lines[name or only] = [Point(ca, asr, str(label)) for label, ca, asr in points]
    return lines
