"""What has been measured, by the cells' digests: benchmark.json, which machines hand on."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket, read_json
from cleanclip_jax.suite.cells import digest_of
from cleanclip_jax.suite.suites import PLACES, Cell, Suite
from cleanclip_jax.workdir import INTERVAL, Workdir

RESULTS, TABLE = "benchmark.json", "benchmark.csv"
LIMIT = 0.05  # of ASR: what a backdoor may keep that counts as gone
COSTS = ("steps", "pairs", "seconds", "flops")
_ROW = {
    "at": {str: str},
    "figures": {str: {"value": float | None, "interval": INTERVAL, "of": int}},
    "cost": {f"{key}?": float | None for key in COSTS},
    **{"machine": str, "version": str, "when": str, "command": str},
    **{"error?": str, "picture?": str},
}
SHAPE = {"suite": str, "cells": {str: _ROW}}

Row = dict[str, Any]


def value(row: Mapping[str, Any], figure: str) -> float | None:
    """A figure's value; None where it was not taken."""
    return row["figures"].get(figure, {}).get("value")


def is_gone(row: Mapping[str, Any]) -> bool:
    """Whether the upper end of ASR's interval is no more than `LIMIT`."""
    interval = row["figures"].get("asr", {}).get("interval")
    return interval is not None and interval[1] <= LIMIT


class Store:
    """The rows of a suite's cells, by digest, as benchmark.json has them.

    Args:
      folder: holds benchmark.json; what lies there already is read.
      merged: benchmark.json of other folders; a row that is no failure goes before one that is.
    """

    def __init__(self, suite: Suite, folder: Path, merged: Iterable[Path] = ()):
        self.suite, self.workdir, self.rows = suite, Workdir(folder), {}
        there = [folder / RESULTS] if self.workdir.has(RESULTS) else []
        for path in (*there, *merged):
            for digest, row in read_json(path, SHAPE, "name a benchmark.json")["cells"].items():
                if "error" in self.rows.get(digest, {"error": ""}):
                    self.rows[digest] = row

    def row(self, cell: Cell | None) -> Row | None:
        """The figures of a cell; None where it was not run, or has failed."""
        row = None if cell is None else self.rows.get(digest_of(cell))
        return None if row is None or "error" in row else row

    def failure(self, cell: Cell) -> str | None:
        """Why a cell has no figures, where it was tried."""
        return self.rows.get(digest_of(cell), {}).get("error")

    def chosen(self, rates: Iterable[Cell]) -> Cell | None:
        """Of a defence's rates the one with the highest CA whose backdoor is gone."""
        rows = [(cell, row) for cell in rates if (row := self.row(cell)) and is_gone(row)]
        return max(rows, key=lambda pair: value(pair[1], "ca") or 0.0)[0] if rows else None

    def rebounds(self) -> Iterator[Cell]:
        """Those of the chosen rates, of each defence whose rates have all been run."""
        for rates in groups(cell for cell in self.suite.cells if cell.kind == "cleaned"):
            if all(digest_of(cell) in self.rows for cell in rates):
                chosen = self.chosen(rates)
                if chosen is not None and (cell := self.suite.rebound(chosen)) is not None:
                    yield cell

    def all_cells(self) -> list[Cell]:
        """The suite's cells, and the rebounds that are known."""
        return [*self.suite.cells, *self.rebounds()]

    def put(self, cell: Cell, row: Row) -> None:
        """Takes a cell's row."""
        self.rows[digest_of(cell)] = {"at": cell.places, **row}

    def write(self) -> None:
        """Writes benchmark.json and benchmark.csv: the rows of the suite's cells, in its order.

        Rows of cells that the suite no longer has stay in the JSON, behind them.
        """
        cells = {digest_of(cell): cell for cell in self.all_cells()}
        known = {digest: self.rows[digest] for digest in cells if digest in self.rows}
        content = {"suite": self.suite.content["title"], "cells": {**known, **self.rows}}
        self.workdir.write_json(RESULTS, content)
        figures = list(dict.fromkeys(name for row in known.values() for name in row["figures"]))
        table = io.StringIO()
        columns = [*PLACES, *figures, *COSTS, "machine", "when", "error"]
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        for row in known.values():
            line = row["at"] | {name: value(row, name) for name in figures} | row["cost"]
            line |= {name: row.get(name) for name in ("machine", "when", "error")}
            writer.writerow({name: line.get(name) for name in columns})
        self.workdir.write(TABLE, table.getvalue())


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that are made together, in the order of the first of each."""
    made: dict[Any, list[Cell]] = {}
    for cell in cells:
        made.setdefault(cell.group, []).append(cell)
    return list(made.values())


def check_folder(folder: Path) -> None:
    """Refuses a folder that is somebody else's."""
    if in_bucket(folder) is None and folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder: name one for the benchmark")
    holds = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if holds and not holds & {RESULTS, "cells"}:
        raise UserError(f"{folder} is not empty and holds no benchmark: name a new folder")
