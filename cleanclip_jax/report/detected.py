"""What `cleanclip detect pairs` saw in a run, on its page: figures, groups, top pairs, scores."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from cleanclip_jax.detect.embedded import Data
from cleanclip_jax.detect.findings import DETECT, GROUPS, SHAPE, SHEET, TOP, cell
from cleanclip_jax.detect.groups import Group
from cleanclip_jax.errors import printable
from cleanclip_jax.files import read_bytes, read_json
from cleanclip_jax.measure.features import Reading, Shown, batches_of
from cleanclip_jax.report.page import Block, Picture, Table
from cleanclip_jax.report.plots import DPI, LOOKS, STYLE, WIDTH, to_png
from cleanclip_jax.report.runs import Run

FOLDER = "detect"
SHOWN_GROUPS, SHOWN_PAIRS = 20, 20
SIDE, GAP, LINE = 112, 6, 18  # pixels of the sheet
LONGEST = 96  # letters of a caption


def detected(runs: Mapping[str, Run]) -> tuple[list[Block], dict[str, bytes]]:
    """The part of the page about the runs whose pairs were scored, and its pictures by name."""
    blocks: list[Block] = []
    files: dict[str, bytes] = {}
    for name, run in runs.items():
        folder = run.workdir / FOLDER
        if not (folder / DETECT).is_file():
            continue
        results = read_json(folder / DETECT, SHAPE, "detect again")
        data = results["data"]
        blocks.append(f"{name}: {data['scored']} of {data['pairs']} pairs scored.")
        blocks += results["warnings"]
        if results["figures"]:
            columns = ["detector", *next(iter(results["figures"].values()))]
            rows = [[d, *map(cell, f.values())] for d, f in results["figures"].items()]
            caption = f"{results['poisons']} poisons are known; in percent, with 95 % intervals."
            blocks.append(Table(caption, columns, rows))
        png = _histograms(results["histograms"])
        files[f"scores_{len(files)}.png"] = png
        alt = f"Histograms of the scores of {', '.join(results['histograms'])}"
        blocks.append(Picture(png, alt, "Scores of all pairs; poisons, where known, are marked."))
        for file, caption, count in (
            (GROUPS, "Groups among the highest hundredth.", SHOWN_GROUPS),
            (TOP, f"The highest pairs by {results['by']}.", SHOWN_PAIRS),
        ):
            if table := _table(folder / file, caption, count):
                blocks.append(table)
        if (folder / SHEET).is_file():
            sheet = read_bytes(folder / SHEET)
            blocks.append(Picture(sheet, "Five pictures of each group", "Pictures of the groups."))
    return blocks, files


def _histograms(scores: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A panel a detector, counts on a scale of logarithms: poisons are a thousandth of all."""
    with matplotlib.rc_context(STYLE):
        rows = -(-len(scores) // 2)
        figure = Figure(figsize=(WIDTH, 1.5 * rows), dpi=DPI, layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, (name, counts) in zip(panels, scores.items(), strict=False):
            edges = np.linspace(counts["low"], counts["high"], len(counts["all"]) + 1)
            axes.stairs(counts["all"], edges, fill=True, color=LOOKS[5][0], alpha=0.4, label="all")
            if counts["poisons"]:
                axes.stairs(counts["poisons"], edges, color=LOOKS[1][0], label="poisons")
            axes.set_yscale("symlog", linthresh=1)
            axes.set_title(name, fontsize=9)
        for axes in panels[len(scores) :]:
            axes.set_visible(False)
        panels[0].legend(fontsize=7)
        return to_png(figure)


def _table(path: Path, caption: str, count: int) -> Table | None:
    if not path.is_file():
        return None
    text = read_bytes(path).decode(errors="replace")
    header, *rows = [*csv.reader(io.StringIO(text))] or [[]]
    rows = [row for row in rows[:count] if len(row) == len(header)]
    return Table(caption, header, rows) if rows else None


def group_sheet(groups: Sequence[Group], data: Data, size: int, reading: Reading) -> bytes | None:
    """A PNG with a row for each of the first groups: its caption and up to five pictures.

    Args:
      size: of the model's pictures, as which they are shown.
    """
    groups = groups[:SHOWN_GROUPS]
    ids = data.source.ids()
    index = np.unique(np.searchsorted(ids, [i for group in groups for i in group.ids]))
    if not len(index):
        return None
    pictures: dict[int, Any] = {}
    shown = Shown(data.source, index.astype(np.int64), plan=data.plan)
    with batches_of(shown, size, reading) as batches:
        for batch in batches:
            pictures |= dict(zip(ids[batch["index"]].tolist(), batch["images"], strict=True))
    height = SIDE + LINE + GAP
    sheet = Image.new("RGB", (5 * (SIDE + GAP) + GAP, height * len(groups) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, group in enumerate(groups):
        words = printable(f"{group.size} of {group.in_data}: {group.caption}"[:LONGEST])
        pen.text(
            (GAP, row * height + GAP), words.encode("latin-1", "replace").decode("latin-1"), "black"
        )
        for column, one in enumerate(group.ids):
            if one in pictures:
                small = Image.fromarray(pictures[one]).resize((SIDE, SIDE))
                sheet.paste(small, (GAP + column * (SIDE + GAP), row * height + GAP + LINE))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
