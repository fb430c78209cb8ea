"""The sections of a report that need nothing but what was measured: tables, curve, training."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cleanclip_jax.report.page import Block, Cell, Picture, Section, Table
from cleanclip_jax.report.plots import Point, ca_asr_curve, training_curves
from cleanclip_jax.report.runs import (
    Entry,
    Gathered,
    Run,
    measured_in_words,
    measured_on,
    short_paths,
)
from cleanclip_jax.report.sweeps import LIMITS, Sweep, best_cells
from cleanclip_jax.report.tables import (
    FIGURES,
    PICTURES,
    SEEDS,
    counted,
    in_words,
    over_rows,
    percent,
)

_NAMES = "CA|ASR|ASR, all|PA|clean target rate|floor ASR|control CA"
_NAMES += "|image to text R@1|text to image R@1|triggered, for the target R@1"
NAMES = dict(zip(FIGURES, _NAMES.split("|"), strict=True))
APART = (
    "These runs were measured on other pictures, with another trigger or by other definitions than "
    "those in the other results: the figures don't compare."
)
PANELS = ("loss", "accuracy", "learning_rate", "pairs_per_second")
MOST_LINES = 6  # of training curves: more than that nobody distinguishes
Pictures = dict[str, bytes]  # PNGs by the names of their files


def results(gathered: Gathered) -> tuple[list[Section], Pictures]:
    """A section for each way in which runs were measured: table, curve, the best at an ASR."""
    kinds: dict[str, dict[Entry, Entry]] = {}
    for entry in gathered.entries:
        for kind in dict.fromkeys(map(measured_on, entry.runs)):
            alike = [run for run in entry.runs if measured_on(run) == kind]
            kinds.setdefault(kind, {})[entry] = replace(entry, runs=alike)
    sections, pictures = [], {}
    for number, entries in enumerate(kinds.values(), 1):
        several = f" {number}" if len(kinds) > 1 else ""
        rows = list(entries.values())
        first = rows[0].runs[0]
        alike = f" Classes are scored {scores[0]}." if len(scores := scored(rows)) == 1 else ""
        blocks: list[Block] = [APART] if several else []
        blocks += [measured_in_words(first) + alike, main_table(rows), meanings(rows)]
        blocks += [main_table(rows, name) for name in list(first.evaluation["sets"])[1:]]
        curve = curve_of(rows, [entries[start] for start in gathered.starts if start in entries])
        if curve is not None:
            pictures[f"curve{several.strip()}.png"] = curve.png
            blocks.append(curve)
        sections.append(Section(f"Results{several}", blocks))
    for folder, sweep in gathered.sweeps.items():
        name = folder.name if len(gathered.sweeps) > 1 else ""
        if blocks := _sweep_blocks(sweep, pictures, name):
            sections.append(Section(f"The best of each line{name and f': {name}'}", blocks))
    return sections, pictures


def main_table(entries: Sequence[Entry], name: str = "") -> Table:
    """CA, ASR and what goes with them, a row an entry; intervals stand below the values.

    What gave the classes their scores stands below an entry's name where it is not the same for all
    entries and sets, and the floor below what was measured of it.

    Args:
      name: of a further set; "" is the first.
    """
    tables = [entry.table(f"{name}." if name else "") for entry in entries]
    shown = [figure for figure in FIGURES if any(figure in table for table in tables)]
    # Of several parts each has its column: no mean is taken over them.
    of_parts = re.compile(r"asr\.(?!.*_(top\d+|low|high)$)")
    shown += dict.fromkeys(c for table in tables for c in table if of_parts.match(str(c)))
    several = any(len(entry.runs) > 1 for entry in entries)
    apart, floors = len(scored(entries)) > 1, floor_names(entries)
    rows: list[list[Cell]] = []
    for entry, table in zip(entries, tables, strict=True):
        by = ", ".join(scored([entry], name)) or "—"
        rows.append([(entry.name, by) if apart else entry.name])
        rows[-1] += [str(len(entry.runs))] if several else []
        for figure in shown:
            below = floors[entry] if figure == "floor_asr" else ()
            rows[-1].append((*in_lines(over_rows(table, figure)), *below))
    intervals = f"{SEEDS}; {PICTURES}" if several else PICTURES
    caption = f"{name}, in percent: {intervals}." if name else f"In percent: {intervals}."
    columns = ["model", *(["seeds"] if several else []), *(NAMES.get(each, each) for each in shown)]
    return Table(caption, columns, rows)


def scored(entries: Sequence[Entry], name: str | None = None) -> list[str]:
    """What scored the classes, in words: of all sets, of the first ("") or of one by its name."""
    words = {}
    for run in (run for entry in entries for run in entry.runs):
        sets = run.evaluation["sets"]
        for one in sets if name is None else [name or next(iter(sets), "")]:
            words |= {in_words(sets[one]["classifier"]): None} if one in sets else {}
    return list(words)


def floor_names(entries: Sequence[Entry]) -> dict[Entry, tuple[str, ...]]:
    """Which model is an entry's floor, as a line of a cell; none where it has none."""
    paths = {
        entry: {Path(floor["workdir"]).resolve(): None for floor in entry.floors}
        for entry in entries
    }
    names = short_paths(list({path: None for several in paths.values() for path in several}))
    floors: dict[Entry, tuple[str, ...]] = dict.fromkeys(entries, ())
    for entry, several in paths.items():
        head = any(words.startswith("by a ") for words in scored([entry], ""))
        words = ", ".join(names[path] for path in several) + (", from prompts" if head else "")
        floors[entry] = (f"of {words}",) if several else ()
    return floors


def meanings(entries: Sequence[Entry]) -> dict[str, str]:
    """What each figure of the table counts, by its name there."""
    figures = [run.figures for entry in reversed(entries) for run in reversed(entry.runs)]
    # The first run's definition holds, in the order in which the runs have them.
    definitions = {k: f[k]["definition"] for f in figures for k in FIGURES if k in f}
    return {NAMES[k]: definitions[k] for k in FIGURES if k in definitions}


def curve_of(entries: Sequence[Entry], starts: Sequence[Entry]) -> Picture | None:
    """CA against ASR; a sweep's points are joined to a line. None where nothing is attacked."""
    series: dict[str, list[Point]] = {}
    start, words = None, []
    for entry in entries:
        table = entry.table()
        ca, asr = over_rows(table, "ca"), over_rows(table, "asr")
        if ca is None or asr is None:
            continue
        words.append(f"{entry.name}: CA {100 * ca.mean:.1f} %, ASR {100 * asr.mean:.1f} %.")
        if [entry] == starts:
            start = Point(ca.mean, asr.mean, entry.name)
        else:
            series.setdefault(entry.line, []).append(Point(ca.mean, asr.mean, entry.label))
    if not words:
        return None
    caption = "Clean accuracy against attack success rate; the upper left corner is the best."
    png = ca_asr_curve(series, start, LIMITS[1])
    return Picture(png, "Clean accuracy against attack success rate. " + " ".join(words), caption)


def training(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[Block], Pictures]:
    """Training curves of runs by name, from the rows of their metrics.jsonl."""
    shown = {name: rows for name, rows in list(runs.items())[:MOST_LINES] if rows}
    keys = [key for key in PANELS if any(key in row for rows in shown.values() for row in rows)]
    if not keys:
        return ["The workdirs hold no metrics.jsonl."], {}
    png = training_curves(shown, keys)
    words = " ".join(
        f"{name}: loss {float(rows[-1]['loss']):.3g} at step {rows[-1]['step']}."
        for name, rows in shown.items()
        if "loss" in rows[-1]
    )
    caption = "Losses of other objectives don't compare."
    if len(runs) > len(shown):
        caption += f" {len(shown)} of {len(runs)} runs are drawn."
    alt = f"{', '.join(keys)} over the steps of training. {words}"
    return [Picture(png, alt, caption)], {"training.png": png}


def every_figure(runs: Mapping[str, Run], of: int) -> list[Block]:
    """All that was measured of runs by name, with counts and denominators; `of` runs there are."""
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    for name, run in runs.items():
        for key, figure in run.figures.items():
            lines = (*in_lines(percent(figure)), counted(figure))
            cells.setdefault((key, figure["definition"]), {})[name] = lines
    rows: list[list[Cell]] = [
        [key, *(values.get(name, "—") for name in runs), definition]
        for (key, definition), values in cells.items()
    ]
    caption = "Shares in percent with Wilson's 95 % intervals, ranks with those of a median."
    blocks: list[Block] = [Table(caption, ["figure", *runs, "of what"], rows)]
    if of > len(runs):
        blocks.append(f"Of {len(runs)} of {of} runs; evaluation.json has those of the others.")
    return blocks


def _sweep_blocks(sweep: Sweep, pictures: Pictures, name: str) -> list[Block]:
    blocks: list[Block] = []
    if chosen := sweep.best():
        caption = (
            f"Best CA at an ASR of at most so much. {sweep.intervals} The point is chosen "
            f"{sweep.each_seed}on the same pictures, which flatters it a little."
        )
        columns, cells = best_cells(chosen)
        blocks.append(Table(caption, columns, [[in_lines(cell) for cell in row] for row in cells]))
        places = [
            [each["line"], f"{100 * each['limit']:g} %", _chosen(each["chosen"], sweep.several)]
            for each in chosen
            if each["chosen"]
        ]
        if places:
            by = "by seed" if sweep.several else "point"
            blocks.append(Table("What was chosen.", ["line", "ASR up to", by], places))
    if lines := sweep.courses():
        png = ca_asr_curve(lines, None, LIMITS[1])
        pictures[f"courses{name and f'-{name}'}.png"] = png
        alt = "CA against ASR on the way of training. " + " ".join(
            f"{line}: "
            + ", ".join(f"step {p.label} {100 * p.ca:.1f}/{100 * p.asr:.1f}" for p in points)
            for line, points in lines.items()
        )
        means = "; means over the seeds" if sweep.several else ""
        caption = f"CA against ASR on the way, each point named by its step{means}."
        blocks.append(Picture(png, alt, caption))
    return blocks


def _chosen(chosen: Mapping[str, str], seeds: bool) -> str:
    return "; ".join(f"{seed}: {where}" if seeds else where for seed, where in chosen.items())


def in_lines(text: object) -> tuple[str, ...]:
    """'55.4 [53.2, 57.6]' as a cell with its interval on a line of its own; '—' of None."""
    return tuple(re.split(r" (?=\[)", str(text or "—"), maxsplit=1))
