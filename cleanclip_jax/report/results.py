"""The sections of a report that need nothing but what was measured: tables, curve, training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cleanclip_jax.report.figure_table import percent
from cleanclip_jax.report.page import Block, Facts, Picture, Section, Table
from cleanclip_jax.report.plots import Point, ca_asr_curve, training_curves
from cleanclip_jax.report.runs import (
    Entry,
    Gathered,
    Run,
    measured_in_words,
    measured_on,
    scored_by,
)
from cleanclip_jax.report.spread import PICTURES, SEEDS
from cleanclip_jax.report.sweeps import FIGURES, LIMITS, best, best_cells, courses, figure_over

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
Pictures = dict[str, bytes]


def results(gathered: Gathered) -> tuple[list[Section], Pictures]:
    """A section for each way in which runs were measured: table, curve, the best at an ASR.

    Returns:
      the sections, and the figures by their file names.
    """
    kinds: dict[str, list[Entry]] = {}
    for entry in gathered.entries:
        for key in {measured_on(run): None for run in entry.runs}:
            kinds.setdefault(key, []).append(entry)
    sections, pictures = [], {}
    for number, (key, entries) in enumerate(kinds.items(), 1):
        several = f" {number}" if len(kinds) > 1 else ""
        blocks: list[Block] = []
        if len(kinds) > 1:
            blocks.append(
                "These runs were measured on other pictures, with another trigger or by other "
                "definitions than those in the other results: the figures don't compare."
            )
        own = [
            replace(entry, runs=[run for run in entry.runs if measured_on(run) == key])
            for entry in entries
        ]
        blocks += [measured_in_words(own[0].runs[0]), main_table(own), meanings(own)]
        for name in list(own[0].runs[0].found["sets"])[1:]:
            blocks.append(main_table(own, name))
        starts = [e for e, old in zip(own, entries, strict=True) if old in gathered.starts]
        curve = curve_of(own, starts)
        if curve is not None:
            pictures[f"curve{several.strip()}.png"] = curve.png
            blocks.append(curve)
        sections.append(Section(f"Results{several}", blocks))
    for folder, sweep in gathered.sweeps.items():
        blocks = _sweep_blocks(sweep, pictures, len(gathered.sweeps) > 1 and folder.name)
        if blocks:
            title = "The best of each line" + (
                f": {folder.name}" if len(gathered.sweeps) > 1 else ""
            )
            sections.append(Section(title, blocks))
    return sections, pictures


def main_table(entries: Sequence[Entry], name: str = "") -> Table:
    """CA, ASR and their company, a row an entry; intervals stand below the values.

    Args:
      name: of a further set; "" is the first.
    """
    table = [(entry, entry.rows(f"{name}." if name else "")) for entry in entries]
    shown = [
        figure for figure in FIGURES if any(figure in row for _, rows in table for row in rows)
    ]
    several = any(len(entry.runs) > 1 for entry in entries)
    heads = len({scored_by(entry) for entry in entries}) > 1 and not name
    columns = ["model", *(["seeds"] if several else []), *(NAMES[figure] for figure in shown)]
    cells = []
    for entry, rows in table:
        found = [figure_over(rows, figure) for figure in shown]
        name_cell = f"{entry.name}\n{scored_by(entry)}" if heads else entry.name
        row = [name_cell, *([str(len(entry.runs))] if several else [])]
        cells.append(row + ["—" if each is None else _broken(str(each)) for each in found])
    said = f"{SEEDS}; {PICTURES}" if several else PICTURES
    caption = f"{name}, in percent: {said}." if name else f"In percent: {said}."
    return Table(caption, columns, cells)


def meanings(entries: Sequence[Entry]) -> Facts:
    """What each figure of the table counts."""
    definitions = {}
    for entry in entries:
        for run in entry.runs:
            for figure in FIGURES:
                if figure in run.found["figures"]:
                    definitions.setdefault(
                        NAMES[figure], run.found["figures"][figure]["definition"]
                    )
    return Facts(definitions)


def curve_of(entries: Sequence[Entry], starts: Sequence[Entry]) -> Picture | None:
    """CA against ASR; a sweep's points are joined to a line. None where nothing is attacked."""
    series: dict[str, list[Point]] = {}
    start, words = None, []
    for entry in entries:
        ca, asr = (figure_over(entry.rows(), figure) for figure in ("ca", "asr"))
        if ca is None or asr is None:
            continue
        words.append(f"{entry.name}: CA {100 * ca.mean:.1f} %, ASR {100 * asr.mean:.1f} %.")
        if entry in starts and start is None and len(starts) == 1:
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
    lasts = {name: rows[-1] for name, rows in shown.items()}
    words = " ".join(
        f"{name}: loss {float(row['loss']):.3g} at step {row['step']}."
        for name, row in lasts.items()
        if "loss" in row
    )
    caption = "Losses of other objectives don't compare."
    if len(runs) > len(shown):
        caption += f" {len(shown)} of {len(runs)} runs are drawn."
    alt = f"{', '.join(keys)} over the steps of training. {words}"
    return [Picture(png, alt, caption)], {"training.png": png}


def every_figure(runs: Mapping[str, Run], of: int) -> list[Block]:
    """All that was measured of runs by name, with counts and denominators; `of` runs there are."""
    blocks: list[Block] = [_in_full(name, run) for name, run in runs.items()]
    if of > len(runs):
        blocks.insert(0, f"Of {len(runs)} of {of} runs; evaluation.json has those of the others.")
    return blocks


def _in_full(name: str, run: Run) -> Table:
    rows = []
    for figure_name, figure in run.found["figures"].items():
        count = f"{figure['count']} of" if "count" in figure else "of"
        value = _broken(percent(figure))
        rows.append([figure_name, value, f"{count} {figure['of']}", figure["definition"]])
    caption = (
        f"{name} ({run.folder}), step {run.found['step']}: shares in percent with Wilson's 95 % "
        "intervals, ranks with those of a median."
    )
    return Table(caption, ["figure", "value", "counted", "of what"], rows)


def _sweep_blocks(sweep: Mapping[str, Any], pictures: Pictures, name: Any) -> list[Block]:
    grid, rows = sweep["over"], sweep["runs"]
    blocks: list[Block] = []
    chosen = best(grid, rows)
    if chosen:
        caption = (
            f"Best CA in percent at an ASR of at most so much: {SEEDS}. The point is chosen for "
            "each seed by itself, on the same pictures, which flatters it a little."
        )
        columns, cells = best_cells(chosen)
        blocks.append(Table(caption, columns, [[_broken(cell) for cell in row] for row in cells]))
        at = [
            [each["line"], f"{100 * each['limit']:g} %", _chosen(each["chosen"])]
            for each in chosen
            if each["chosen"]
        ]
        if at:
            blocks.append(Table("What was chosen.", ["line", "ASR up to", "by seed"], at))
    lines = courses(grid, rows)
    if lines:
        png = ca_asr_curve(lines, None, LIMITS[1])
        pictures[f"courses{f'-{name}' if name else ''}.png"] = png
        alt = "CA against ASR on the way of training. " + " ".join(
            f"{line}: "
            + ", ".join(f"step {p.label} {100 * p.ca:.1f}/{100 * p.asr:.1f}" for p in ps)
            for line, ps in lines.items()
        )
        caption = "CA against ASR on the way, each point named by its step; means over the seeds."
        blocks.append(Picture(png, alt, caption))
    return blocks


def _chosen(chosen: Mapping[str, str]) -> str:
    return "; ".join(f"{seed}: {where}" if seed else where for seed, where in chosen.items())


def _broken(text: str) -> str:
    """'55.4 [53.2, 57.6]' with its interval on a line of its own."""
    return text.replace(" [", "\n[", 1)
