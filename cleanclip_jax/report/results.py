"""The sections of a report that need nothing but what was measured: tables, curve, training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cleanclip_jax.report.figure_table import counted, percent
from cleanclip_jax.report.page import Block, Picture, Section, Table
from cleanclip_jax.report.plots import Point, ca_asr_curve, training_curves
from cleanclip_jax.report.runs import Entry, Gathered, Run, measured_in_words, measured_on
from cleanclip_jax.report.sweeps import LIMITS, Sweep, best_cells
from cleanclip_jax.report.tables import FIGURES, PICTURES, SEEDS, over_rows

NAMES = {
    "ca": "CA",
    "asr": "ASR",
    "asr_all": "ASR, all",
    "pa": "PA",
    "clean_target_rate": "clean target rate",
    "floor_asr": "floor ASR",
    "control_ca": "control CA",
    "retrieval.image_to_text_r1": "image to text R@1",
    "retrieval.text_to_image_r1": "text to image R@1",
    "retrieval.backdoor_r1": "triggered, for the target R@1",
}
PANELS = ("loss", "accuracy", "learning_rate", "pairs_per_second")
MOST_LINES = 6  # of training curves: as many as can be told apart
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
        apart = (
            "These runs were measured on other pictures, with another trigger or by other "
            "definitions than those in the other results: the figures don't compare."
        )
        blocks: list[Block] = [apart] if several else []
        rows = list(entries.values())
        first = rows[0].runs[0]
        blocks += [measured_in_words(first), main_table(rows), meanings(rows)]
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

    Args:
      name: of a further set; "" is the first.
    """
    tables = [entry.table(f"{name}." if name else "") for entry in entries]
    shown = [figure for figure in FIGURES if any(figure in table for table in tables)]
    several = any(len(entry.runs) > 1 for entry in entries)
    heads = len({scored_by(entry) for entry in entries}) > 1 and not name
    rows = []
    for entry, table in zip(entries, tables, strict=True):
        label = f"{entry.name}\n{scored_by(entry)}" if heads else entry.name
        values = [_broken(str(over_rows(table, figure) or "—")) for figure in shown]
        rows.append([label, *([str(len(entry.runs))] if several else []), *values])
    intervals = f"{SEEDS}; {PICTURES}" if several else PICTURES
    caption = f"{name}, in percent: {intervals}." if name else f"In percent: {intervals}."
    columns = ["model", *(["seeds"] if several else []), *(NAMES[figure] for figure in shown)]
    return Table(caption, columns, rows)


def scored_by(entry: Entry) -> str:
    """What gave the first set's classes their scores."""
    sets = [next(iter(run.evaluation["sets"].values()), None) for run in entry.runs]
    return ", ".join(dict.fromkeys(facts["classifier"] for facts in sets if facts)) or "—"


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
    blocks: list[Block] = []
    if of > len(runs):
        blocks.append(f"Of {len(runs)} of {of} runs; evaluation.json has those of the others.")
    for name, run in runs.items():
        caption = (
            f"{name} ({run.workdir}), step {run.evaluation['step']}: shares in percent with "
            "Wilson's 95 % intervals, ranks with those of a median."
        )
        rows = [
            [key, _broken(percent(figure)), counted(figure), figure["definition"]]
            for key, figure in run.figures.items()
        ]
        blocks.append(Table(caption, ["figure", "value", "counted", "of what"], rows))
    return blocks


def _sweep_blocks(sweep: Sweep, pictures: Pictures, name: str) -> list[Block]:
    blocks: list[Block] = []
    if chosen := sweep.best():
        caption = (
            f"Best CA in percent at an ASR of at most so much: {SEEDS}. The point is chosen for "
            "each seed by itself, on the same pictures, which flatters it a little."
        )
        columns, cells = best_cells(chosen)
        blocks.append(Table(caption, columns, [[_broken(cell) for cell in row] for row in cells]))
        places = [
            [each["line"], f"{100 * each['limit']:g} %", _chosen(each["chosen"])]
            for each in chosen
            if each["chosen"]
        ]
        if places:
            blocks.append(Table("What was chosen.", ["line", "ASR up to", "by seed"], places))
    if lines := sweep.courses():
        png = ca_asr_curve(lines, None, LIMITS[1])
        pictures[f"courses{name and f'-{name}'}.png"] = png
        alt = "CA against ASR on the way of training. " + " ".join(
            f"{line}: "
            + ", ".join(f"step {p.label} {100 * p.ca:.1f}/{100 * p.asr:.1f}" for p in points)
            for line, points in lines.items()
        )
        caption = "CA against ASR on the way, each point named by its step; means over the seeds."
        blocks.append(Picture(png, alt, caption))
    return blocks


def _chosen(chosen: Mapping[str, str]) -> str:
    return "; ".join(f"{seed}: {where}" if seed else where for seed, where in chosen.items())


def _broken(text: str) -> str:
    """'55.4 [53.2, 57.6]' with its interval on a line of its own."""
    return text.replace(" [", "\n[", 1)
