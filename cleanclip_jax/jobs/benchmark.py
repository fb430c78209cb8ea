"""`cleanclip benchmark`: attacks x defences x detectors of a suite, in one table.

SUITE is small, open or cc3m (configs/benchmark.py), or FILE.py[:arg] of your own. Each model and
each scan is a cell with a folder of its own in WORKDIR/cells. benchmark.json, benchmark.csv and
benchmark.html are written after each of them; the same command goes on where it was stopped, and
makes again only what is not as it was. docs/benchmark.md has every figure's definition.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.process import keep_compiled, keep_memory
from cleanclip_jax.suite.cells import cost_of, digest_of
from cleanclip_jax.suite.ledger import RESULTS, TABLE, Store, check_folder, groups
from cleanclip_jax.suite.making import Maker
from cleanclip_jax.suite.sheet import PAGE, write_sheet
from cleanclip_jax.suite.suites import Cell, Selection, Suite, open_suite, read_selection
from cleanclip_jax.workdir import workdir_path


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code: 1 if a cell failed."""
    parser = Parser(
        prog="cleanclip benchmark",
        description=__doc__,
        epilog="--config.KEY=VALUE holds for every run of the suite.",
    )
    parser.add_argument("suite", metavar="SUITE", help="small | open | cc3m | FILE.py[:arg]")
    parser.add_argument("--workdir", required=True, type=workdir_path, help="the suite's folder")
    parser.add_argument(
        "--only", default="", metavar="KEY=VALUE,...", help="these cells: attack=badnet,defence=par"
    )
    parser.add_argument("--limit", type=float, metavar="MINUTES", help="then no cell is begun")
    parser.add_argument(
        "--merge", action="append", default=[], type=workdir_path, metavar="benchmark.json",
        help="figures of another folder or machine, whose cells are not run again",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="run also those that have figures")
    parser.add_argument("--plan", action="store_true", help="list cells and costs, and run nothing")
    args, overrides = parse(parser, argv)
    if args.limit is not None and args.limit < 0:
        raise UserError(f"--limit={args.limit:g}: give minutes, 0 or more")
    suite, only = open_suite(args.suite, overrides), read_selection("--only", args.only)
    if not any(_selects(only, cell) for cell in suite.cells):
        raise UserError(f"--only={args.only}: {suite.spec} has no such cell")
    folder: Path = args.workdir
    check_folder(folder)
    store = Store(suite, folder, args.merge)
    if args.plan:
        print(plan(store, only, args.again))
        return 0
    keep_compiled()
    keep_memory()
    again = [f"--import={each}" for each in args.imports]
    again += [f"--config.{key}={text}" for key, text in overrides.items()]
    command = shlex.join(["cleanclip", "benchmark", args.suite, f"--workdir={folder}", *again])
    with writing(folder):
        tried = run(store, Maker(suite, store, folder, command, args.again), only, args.limit)
        store.write()
        write_sheet(folder, store, command)
    failures = {cell: text for cell in tried if (text := store.failure(cell))}
    for cell, text in failures.items():
        print(f"failed: {cell.name}: {text}", file=sys.stderr)
    every = store.all_cells()
    done = sum(store.row(cell) is not None for cell in every)
    print(f"{done} of {len(every)} cells; written: {folder}: {PAGE}, {RESULTS}, {TABLE}")
    return 1 if failures else 0


def _selects(only: Selection, cell: Cell) -> bool:
    """Whether a selection names a cell; or, of a rebound, the model that it is of."""
    if "rebound" in only.get("kind", ()):
        return cell.kind == "cleaned" and cell.within(
            {k: v for k, v in only.items() if k != "kind"}
        )
    return cell.within(only)


def run(store: Store, maker: Maker, only: Selection, limit: float | None) -> list[Cell]:
    """Makes the cells that are selected and have no figures, group by group, in their order.

    A defence's rebound follows its rates. Returns the cells that were tried.
    """
    end = None if limit is None else time.monotonic() + 60 * limit
    tried: list[Cell] = []

    def make(cells: list[Cell]) -> None:
        chosen = [cell for cell in cells if cell.within(only)]
        todo = [cell for cell in chosen if maker.again or store.row(cell) is None]
        if todo and (end is None or time.monotonic() < end):
            print(f"benchmark: {', '.join(cell.name for cell in todo)}", file=sys.stderr)
            maker.make(todo)
            write_sheet(maker.folder, store, maker.command)
            tried.extend(todo)

    for cells in groups(store.suite.cells):
        make(cells)
        if cells[0].kind == "cleaned" and all(store.row(cell) for cell in cells):
            best = store.chosen(cells)
            if best is not None and (rebound := store.suite.rebound(best)) is not None:
                make([rebound])
    return tried


def plan(store: Store, only: Selection, again: bool) -> str:
    """The cells in their order, with steps, pairs and FLOPs, and what of it is still to be run."""
    suite: Suite = store.suite
    every = [cell for cell in store.all_cells() if cell.within(only)]
    lines, total, seconds = [], {"pairs": 0.0, "flops": 0.0}, []
    for cell in every:
        row, cost = store.row(cell), cost_of(suite, cell)
        mark = "again" if row and again else "done" if row else "to run"
        if row and row["cost"].get("flops") and row["cost"].get("seconds"):
            seconds.append(row["cost"]["seconds"] / row["cost"]["flops"])
        if mark != "done":
            for key in total:
                total[key] += cost[key] or 0.0
        facts = [f"{cost[key]:.3g} {key}" for key in ("steps", "pairs", "flops") if cost[key]]
        lines.append(f"{mark:<7} {digest_of(cell)[:10]}  {cell.name}  {', '.join(facts)}")
    todo = sum(not line.startswith("done") for line in lines)
    summary = f"{len(every)} cells, {todo} to run: {total['pairs']:.3g} pairs, "
    summary += f"{total['flops']:.3g} FLOPs"
    if seconds:  # of this machine, or those that the figures are of
        summary += (
            f"; at the speed so far {total['flops'] * sum(seconds) / len(seconds) / 3600:.1f} h"
        )
    rebounds = " and rebounds, which follow the rates" if suite.content.get("rebound") else ""
    return "\n".join([*lines, summary + rebounds])
