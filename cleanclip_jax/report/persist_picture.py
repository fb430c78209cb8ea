"""The picture of `cleanclip persist`: attack success and CA by protocol, of both models."""

from statistics import mean
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cleanclip_jax.report.persist_rows import NAMES, Rows, courses, names_of, woken
from cleanclip_jax.report.plots import DPI, FAINT, LOOKS, STYLE, WIDTH, to_png


def draw(rows: Rows) -> bytes | None:
    """A panel a protocol: attack success, and CA dashed, of both models. None without a point."""
    asr = next((name for name in names_of(rows) if name.startswith("asr")), "asr")
    panels = [p for p in ("path", "retune", "rebound") if courses(rows, p, asr)]
    bars = any(row["protocol"] == "reactivation" for row in rows)
    count = len(panels) + bars
    if not count:
        return None
    with matplotlib.rc_context(STYLE):
        height = 2.3 * -(-count // 2) + 0.4
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        grid = figure.subplots(-(-count // 2), min(2, count), squeeze=False, sharey=True).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _courses_on(axes, rows, panel, asr)
        if bars:
            _bars_on(grid[len(panels)], rows, asr)
        for axes in grid:
            axes.set_ylim(-3, 103)
        for axes in grid[count:]:
            axes.set_visible(False)
        grid[0].set_ylabel("%")
        handles = {h.get_label(): h for axes in grid for h in axes.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=len(handles))
        return to_png(figure)


def _courses_on(axes: Any, rows: Rows, protocol: str, asr: str) -> None:
    """Each model's means over seeds; of several rates the one with the highest success last."""
    for model, (colour, marker, _) in zip(NAMES, LOOKS, strict=False):
        for which, line in ((asr, "-"), ("ca", (0, (4, 3)))):
            every = {k: c for k, c in courses(rows, protocol, which).items() if k[0] == model}
            if not every:
                continue
            rates = {key[1] for key in every}
            highest = max(rates, key=lambda r: r or 0)
            several = [course for key, course in every.items() if key[1] == highest]
            places = sorted(set.intersection(*map(set, several)))
            values = [100 * mean(course[at] for course in several) for at in places]
            look = {"color": colour, "linestyle": line, "clip_on": False}
            look |= {"marker": marker, "label": NAMES[model]} if which == asr else {}
            axes.plot(places, values, **look)
    axes.set_title(protocol, fontsize=9)
    axes.set_xlabel("alpha, to the poisoned model" if protocol == "path" else "epochs")


def _bars_on(axes: Any, rows: Rows, asr: str) -> None:
    before = asr.replace("asr", "before", 1)
    for number, (model, (colour, *_)) in enumerate(zip(NAMES, LOOKS, strict=False)):
        for place, at in enumerate(("trigger", "no trigger")):
            values = list(woken(rows, asr, model, at).values())
            if not values:
                continue
            x = place + 0.36 * number - 0.18
            axes.bar(x, 100 * mean(values), 0.32, color=colour)
            plain = mean(woken(rows, before, model, at).values())
            axes.hlines(100 * plain, x - 0.16, x + 0.16, color=FAINT)
    axes.set_xticks([0, 1], ["trigger", "no trigger"])
    axes.set_title("reactivation; grey: before", fontsize=9)
