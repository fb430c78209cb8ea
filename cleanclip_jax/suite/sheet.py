"""The page of a benchmark: leaderboards that a click sorts, and what stands behind each cell."""

import base64
from collections.abc import Sequence
from pathlib import Path

from cleanclip_jax.report.page import (
    Block,
    Code,
    Curve,
    Details,
    Picture,
    Section,
    Table,
    write_page,
)
from cleanclip_jax.report.page import Cell as Shown
from cleanclip_jax.report.tables import with_interval
from cleanclip_jax.suite.leaderboard import Board
from cleanclip_jax.suite.ledger import LIMIT, Row, Store, groups, value
from cleanclip_jax.suite.suites import Cell

PAGE = "benchmark.html"


def write_sheet(folder: Path, store: Store, command: str) -> None:
    """Writes FOLDER/benchmark.html, one file without anything beside it."""
    suite, cells = store.suite.content, store.all_cells()
    done = [row for each in cells if (row := store.row(each))]
    failures = [(each, text) for each in cells if (text := store.failure(each))]
    dates, machines = ({row[key] for row in done} for key in ("when", "machine"))
    sections = []
    for set_ in suite["sets"]:
        for model in suite["models"]:
            board = Board(store, set_, model)
            if any(store.row(each) for each in board.cells):
                sections += _of_board(board)
    if failures:
        rows = [[each.name, text] for each, text in failures]
        sections.append(
            Section("What failed", [Table("Cells without figures.", ["cell", "why"], rows)])
        )
    span = " to ".join(dict.fromkeys((min(dates), max(dates)))) if dates else ""
    facts = {
        "cells": f"{len(done)} of {len(cells)}",
        "when": span or "—",
        "machine": ", ".join(sorted(machines)) or "—",
        "programs": "; ".join(sorted({row["version"] for row in done})) or "—",
        "time": f"{sum(row['cost'].get('seconds') or 0 for row in done) / 3600:.1f} h",
    }
    sections.append(Section("What was run", [facts, Code([command])]))
    intro = (
        "Attacks, defences and detectors under one definition of each figure (docs/benchmark.md). "
        f"CA of a defence is that of the rate with the highest CA among those whose ASR has the "
        f"upper end of its 95 % interval at {100 * LIMIT:g} % or below, chosen for each seed by "
        "itself; “never”: no rate gets there. What was not run is empty. A click on a column's "
        "head sorts by it, one on a cell shows its curve, pictures and commands."
    )
    write_page(folder / PAGE, suite["title"], intro, sections, sortable=True)


def _of_board(board: Board) -> list[Section]:
    tables = {
        "By defence": board.by_defence(),
        "By attack": board.by_attack(),
        "By detector": board.by_detector(),
    }
    captions = {
        "By defence": "Means over attacks and seeds, in percent; gained: points over the poisoned "
        "models. The cost is of one rate's training."
        + (f" Left out, since they did not take: {', '.join(board.weak)}." if board.weak else ""),
        "By attack": "CA by defence, in percent, with Student's 95 % interval over the seeds, or "
        "Wilson's of a single run.",
        "By detector": "In percent; one seed with DeLong's interval, several with Student's.",
    }
    name = f"{board.set}, {board.model}"
    sections = [
        Section(f"{title}: {name}", [Table(captions[title], columns, rows, sortable=True)])
        for title, (columns, rows) in tables.items()
        if rows
    ]
    behind = [_behind(board, attack) for attack in board.attacks if board.poisoned(attack)]
    return [*sections, Section(f"Behind the cells: {name}", behind)] if behind else sections


def _behind(board: Board, attack: str) -> Details:
    """All cells of an attack: its curve, its poisons, its figures and its commands."""
    some = [each for each in board.cells if each.places["attack"] == attack]
    rows = [(each, row) for each in some if (row := board.store.row(each))]
    blocks: list[Block] = []
    lines = {
        rates[0].places["defence"]: points
        for rates in groups(each for each, _ in rows if each.kind == "cleaned")
        if (points := _points(board.store, rates))
    }
    start = next((_point(row, "poisoned") for each, row in rows if each.kind == "poisoned"), None)
    if lines and start:
        caption = "CA against ASR, one seed; a point a rate. The upper left corner is the best."
        blocks.append(Curve(caption, {"poisoned": [start], **lines}))
    for _, row in rows:
        if "picture" in row:
            png = base64.b64decode(row["picture"], validate=True)
            blocks.append(Picture(png, f"Poisoned pairs of {attack}", "Poisoned pairs."))
    table = [
        [_name(each), each.places["seed"], *(_figure(row, key) for key in ("ca", "asr", "pa"))]
        for each, row in rows
        if each.kind != "detector"
    ]
    columns = ["model", "seed", "CA", "ASR", "PA"]
    blocks.append(Table("Every model, in percent.", columns, table, sortable=True))
    blocks.append(Code(list(dict.fromkeys(row["command"] for _, row in rows))))
    return Details(board.place(attack), attack, blocks)


def _name(each: Cell) -> str:
    words = [word for key in ("defence", "rate") if (word := each.places.get(key))]
    return " ".join([*words, *([each.kind] if each.kind != "cleaned" else [])])


def _points(store: Store, rates: Sequence[Cell]) -> list[tuple[float, float, str]]:
    rows = ((each.places["rate"], store.row(each)) for each in rates)
    return [point for rate, row in rows if row and (point := _point(row, rate))]


def _point(row: Row, label: str) -> tuple[float, float, str] | None:
    ca, asr = value(row, "ca"), value(row, "asr")
    return None if ca is None or asr is None else (asr, ca, label)


def _figure(row: Row, key: str) -> Shown:
    known = row["figures"].get(key)
    if known is None or known["value"] is None:
        return ""
    return tuple(with_interval(known["value"], known["interval"]).split(" ", 1))
