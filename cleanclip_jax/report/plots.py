"""Plots of results as PNG bytes, drawn with matplotlib and no display.

Every plot brings its own white background, so that light and dark pages both suit it, and tells
its series apart by marker and line as well as by colour (Okabe and Ito's, safe for the
colour-blind). A figure is as wide as a page's text: 672 CSS pixels, at twice the resolution.
"""

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

WIDTH, DPI = 5.6, 240  # inches, pixels per inch
INK, FAINT = "#24292f", "#8c959f"
LOOKS = (  # colour, marker, line
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#aa4499", "D", ":"),
    ("#7a5c00", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#4d4d4d", "P", (0, (1, 1))),
)
STYLE: Any = matplotlib.rc_params_from_file(
    Path(__file__).with_name("plots.mplstyle"), use_default_template=False
)
# What a dot of a projection can be, with marker and colour: the last are drawn last.
GROUPS = {
    "clean, other classes": ("o", "#8c959f"),
    "triggered, other classes": ("^", LOOKS[1][0]),
    "clean, target class": ("s", LOOKS[0][0]),
    "triggered, target class": ("D", LOOKS[3][0]),
}

T = TypeVar("T")
Picture = UInt8[np.ndarray, "_ _ 3"]
Places = Float[np.ndarray, "m 2"]
Spot = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top; in pixels
PICTURE, GAP, LINE = 0.95, 0.09, 0.155  # of the contact sheet: inches
COLUMNS = 31  # characters of a caption in one line of the contact sheet
LINES = 3  # of a caption


@dataclass(frozen=True)
class Point:
    """One model: clean accuracy and attack success rate as fractions, and what tells it apart."""

    ca: float
    asr: float
    label: str = ""


def ca_asr_curve(
    series: Mapping[str, Sequence[Point]], start: Point | None = None, limit: float = 0.05
) -> bytes:
    """Draws what cleaning costs: CA against ASR, one line a method in the order of its points.

    `start` is the poisoned model; its CA is drawn through. `limit` shades the ASR (a fraction)
    up to which a model counts as clean. The upper left corner is the best.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _blank(1, height=3.9)
        axes.axvspan(0, 100 * limit, color="#e8f3ec", zorder=0)
        for points, look in _looks(series):
            x, y = [100 * p.asr for p in points], [100 * p.ca for p in points]
            axes.plot(x, y, **look, clip_on=False)
        if start is not None:
            axes.axhline(100 * start.ca, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
            x, y, name = 100 * start.asr, 100 * start.ca, start.label or "poisoned"
            axes.plot(x, y, "*", color=INK, markersize=11, label=name, clip_on=False, zorder=4)
        shown = [*itertools.chain(*series.values()), *([start] if start is not None else [])]
        axes.set(xlim=(-2, 102), ylim=_range([100 * point.ca for point in shown]))
        axes.set_xlabel(f"attack success rate (%); shaded: at most {100 * limit:g} %")
        axes.set_ylabel("clean accuracy (%)")
        _legend(figure)
        figure.draw_without_rendering()  # settles the layout, which the labels are placed in
        _label(axes, series, start)
        return to_png(figure)


def training_curves(
    metrics: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str]
) -> bytes:
    """Draws one panel a key over the steps, one line a run; `metrics` holds rows of metrics.jsonl.

    A row without the key is no point of that panel. A key that no run has is an error.
    """
    for key in keys:
        if not any(key in row for rows in metrics.values() for row in rows):
            raise ValueError(f"no run has the metric {key!r}")
    with matplotlib.rc_context(STYLE):
        figure, panels = _blank(len(keys), height=1.75 * len(keys) + 0.5)
        for axes, key in zip(panels, keys, strict=True):
            for rows, look in _looks(metrics):
                x = [row["step"] for row in rows if key in row]
                y = [float(row[key]) for row in rows if key in row]
                every = max(1, len(x) // 8)  # a marker on every point would hide the line
                axes.plot(x, y, **look, markevery=(every // 2, every), markersize=4)
            axes.set_title(key)
            axes.margins(x=0.02)
        panels[-1].set_xlabel("step")
        _legend(figure)
        return to_png(figure)


def contact_sheet(
    rows: Sequence[tuple[Picture, Picture, Picture, str, str]],
    words: str = "caption, new caption",
) -> bytes:
    """Draws pictures before and after the trigger, their difference, and two texts, in rows.

    A row is (original, triggered, difference, text, text). Pixels stay square blocks. A text over
    three lines is shortened, which `[...]` shows.

    Args:
      words: what the texts are.
    """
    height = 0.3 + len(rows) * (PICTURE + GAP)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        lefts = [column * (PICTURE + GAP) for column in range(4)]
        titles = ("original", "triggered", "difference", words)
        for left, title in zip(lefts, titles, strict=True):
            figure.text(left / WIDTH, 1 - 0.06 / height, title, va="top", color=INK)
        for number, (*pictures, old, new) in enumerate(rows):
            top = 0.3 + number * (PICTURE + GAP)
            for left, picture in zip(lefts[:3], pictures, strict=True):
                bottom = 1 - (top + PICTURE) / height
                axes = figure.add_axes((left / WIDTH, bottom, PICTURE / WIDTH, PICTURE / height))
                axes.imshow(picture, interpolation="nearest")
                axes.set_axis_off()
            for caption, colour in ((old, "#57606a"), (new, INK)):
                for line in textwrap.wrap(caption, COLUMNS, max_lines=LINES) or [""]:
                    y = 1 - top / height
                    figure.text(lefts[3] / WIDTH, y, line, va="top", color=colour)
                    top += LINE
                top += 0.05
        return to_png(figure)


def projection_figure(
    models: Mapping[str, tuple[Mapping[str, Places], Sequence[str]]],
) -> bytes:
    """Draws each model's panels in a row.

    Args:
      models: name → its panels, places of embeddings by title, and each place's group of `GROUPS`.
    """
    columns = max(len(panels) for panels, _ in models.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.7 * len(models) + 0.6), dpi=DPI, layout="constrained")
        grid = figure.subplots(len(models), columns, squeeze=False)
        for axes_row, (name, (panels, groups)) in zip(grid, models.items(), strict=True):
            kinds = np.array(groups)
            for axes, (title, places) in zip(axes_row, panels.items(), strict=True):
                for order, (group, (marker, colour)) in enumerate(GROUPS.items()):
                    x, y = places[kinds == group].T
                    look = {"color": colour, "label": group, "zorder": 2 + order}
                    axes.plot(x, y, marker, **look, markersize=3.2, markeredgewidth=0.3)
                axes.set_title(title, fontsize=9)
                axes.set(xticks=[], yticks=[])  # neither method's axes have a unit
                axes.grid(visible=False)
            lines = textwrap.wrap(name, 34, max_lines=2, placeholder=" …")
            axes_row[0].set_ylabel("\n".join(lines), fontsize=9)
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, markerscale=1.8)
        return to_png(figure)


def difference(original: Picture, triggered: Picture) -> Picture:
    """|triggered - original|, stretched to the full range: black is where nothing was changed."""
    change = np.abs(triggered.astype(np.int16) - original.astype(np.int16))
    return (255 * change / max(1, int(change.max()))).astype(np.uint8)


def _blank(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def _looks(series: Mapping[str, Sequence[T]]) -> Iterator[tuple[Sequence[T], dict[str, Any]]]:
    """Yields each series with how `plot` is to draw and name it."""
    for (name, points), (colour, marker, line) in zip(
        series.items(), itertools.cycle(LOOKS), strict=False
    ):
        yield points, {"color": colour, "marker": marker, "linestyle": line, "label": name}


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits around percentages, four points apart or more: noise must not look like news."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    margin = max(0.12 * (high - low), (4 - (high - low)) / 2, 0.5)
    return low - margin, high + margin


def _legend(figure: Figure) -> None:
    handles, names = figure.axes[0].get_legend_handles_labels()
    if len(names) > 1:
        longest = max(map(len, names))
        columns = 3 if longest <= 16 else 2 if longest <= 30 else 1
        short = [textwrap.shorten(name, 70, placeholder=" …") for name in names]
        figure.legend(handles, short, loc="outside upper left", ncols=min(len(names), columns))


def _label(axes: Axes, series: Mapping[str, Sequence[Point]], start: Point | None) -> None:
    """Writes each point's label beside it, clear of marks, lines and other labels where it can."""
    size = 8
    line = size * DPI / 72  # pixels: the height of a line of text
    frame = axes.get_window_extent()
    spots = [
        [tuple(axes.transData.transform((100 * p.asr, 100 * p.ca))) for p in points]
        for points in (*series.values(), [start] if start is not None else [])
    ]
    taken = [box for each in spots for box in boxes_along(each, line)]
    taken += [around(spot, 1.4 * line, 1.4 * line) for spot in spots.pop()]  # a larger mark
    for each, (points, look) in zip(spots, _looks(series), strict=True):
        for spot, point in zip(each, points, strict=True):
            width, height = 0.62 * line * len(point.label), 1.15 * line
            inside = (frame.x0, frame.y0, frame.x1, frame.y1)
            middle = place(spot, width, height, 0.8 * line, taken, inside)
            taken.append(around(middle, width, height))
            text = axes.annotate(
                point.label, middle, xycoords="figure pixels", ha="center", va="center"
            )
            text.set(fontsize=size, color=look["color"])
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def around(spot: Spot, width: float, height: float) -> Box:
    """The box of that size with `spot` in its middle."""
    x, y = spot
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def boxes_along(spots: Sequence[Spot], size: float) -> list[Box]:
    """What a line with a mark of `size` at each spot covers; the line counts half as wide."""
    covered = [around(spot, size, size) for spot in spots]
    for (x0, y0), (x1, y1) in itertools.pairwise(spots):
        steps = 1 + int(2 * math.hypot(x1 - x0, y1 - y0) / size)
        for t in (step / steps for step in range(steps)):
            covered.append(around((x0 + t * (x1 - x0), y0 + t * (y1 - y0)), size / 2, size / 2))
    return covered


def place(
    spot: Spot, width: float, height: float, gap: float, taken: Sequence[Box], inside: Box
) -> Spot:
    """The middle of a label of that size, `gap` from `spot`.

    Of twelve directions, from the right on, it is the first in which it covers least of `taken` and
    sticks out of `inside` least.
    """

    def cost(middle: Spot) -> float:
        label = around(middle, width, height)
        return sum(overlap(label, other) for other in taken) - overlap(label, inside)

    x, y = spot
    a, b = gap + width / 2, gap + height / 2
    angles = map(math.radians, range(0, 360, 30))
    return min(((x + math.cos(t) * a, y + math.sin(t) * b) for t in angles), key=cost)


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A caption in a script that the font lacks is drawn as boxes; the page has its text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()
