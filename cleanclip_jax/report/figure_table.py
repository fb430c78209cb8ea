"""What evaluation.json holds, as lines of text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Of several sets, the columns of the one table.
COLUMNS = ("ca", "asr", "asr_all", "pa", "clean_target_rate", "floor_asr", "control_ca")
TOP = re.compile(r"_top(\d+)$")

Figures = Mapping[str, Mapping[str, Any]]


def table(found: Mapping[str, Any]) -> str:
    """The figures with their 95 % intervals; one set in full, of several a row for each.

    Full: a line a figure, with its count, its denominator and its definition, and below it the
    same among the top k.
    """
    sets = found["sets"]
    lines = [f"{found['workdir']} at step {found['step']}"]
    if len(sets) == 1:
        name, facts = next(iter(sets.items()))
        lines += [_title(name, facts), *_in_full(_of(found, name))]
    elif sets:
        lines += _rows(found)
    for name, facts in sets.items():
        lines += [f"  {name}: {text}" for text in _remarks(facts)]
    if found["retrieval"]:
        facts = found["retrieval"]
        target = f", target {facts['target']!r}" if facts["target"] else ""
        lines.append(
            f"retrieval: {facts['pictures']} pictures, {facts['captions']} captions{target}"
        )
        lines += _in_full(_named(found["figures"], "retrieval."))
        for kind in ("unreadable", "without_caption", "empty_captions"):
            if facts[kind]:
                lines.append(f"  left out: {facts[kind]} {kind.replace('_', ' ')}")
    return "\n".join(lines)


def percent(figure: Mapping[str, Any] | None, digits: int = 2) -> str:
    """'97.25 [95.15, 98.46]' of a share in percent, or of a rank as it is; '—' of nothing."""
    if figure is None or figure["value"] is None:
        return "—"
    scale = 1 if figure["unit"] == "rank" else 100
    if figure["unit"] == "rank":
        digits = 0 if figure["value"] == int(figure["value"]) else 1
    value, (low, high) = figure["value"], figure["interval"]
    return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _of(found: Mapping[str, Any], name: str) -> Figures:
    """The figures of a set under their own names; the first's have no set's name before them."""
    if name == next(iter(found["sets"])):
        return {key: figure for key, figure in found["figures"].items() if "." not in key}
    return _named(found["figures"], f"{name}.")


def _named(figures: Figures, prefix: str) -> Figures:
    return {k.removeprefix(prefix): f for k, f in figures.items() if k.startswith(prefix)}


def _title(name: str, facts: Mapping[str, Any]) -> str:
    target = facts["target"]
    return (
        f"{name}: {facts['classes']} classes, {facts['classifier']}"
        + (f", target {target['name']!r} ({target['index']})" if target else "")
        + "; in percent, with 95 % intervals"
    )


def _remarks(facts: Mapping[str, Any]) -> list[str]:
    remarks = [facts["note"]] if facts["note"] else []
    for kind in ("without_class", "unreadable"):
        if facts["pictures"][kind]:
            remarks.append(f"left out: {facts['pictures'][kind]} {kind.replace('_', ' ')}")
    return remarks


def _in_full(figures: Figures) -> list[str]:
    lines = []
    for name, figure in figures.items():
        if TOP.search(name):
            continue
        counts = (
            f"of {figure['of']}"
            if "count" not in figure
            else (f"{figure['count']} of {figure['of']}")
        )
        lines.append(f"  {name:<26}{percent(figure):<24}{counts:<18}{figure['definition']}")
        tops = {k: f for k, f in figures.items() if TOP.sub("", k) == name and k != name}
        if tops:
            numbers = "/".join(str(TOP.search(key)[1]) for key in tops)  # pyright: ignore
            cells = "  ".join(percent(top) for top in tops.values())
            lines.append(f"  {f'  among the top {numbers}':<26}{cells}")
    return lines


def _rows(found: Mapping[str, Any]) -> list[str]:
    shown = {name: _of(found, name) for name in found["sets"]}
    columns = [c for c in COLUMNS if any(c in figures for figures in shown.values())]
    cells = [["set", "classes", "target", *columns]]
    for name, figures in shown.items():
        facts = found["sets"][name]
        target = facts["target"]["name"] if facts["target"] else "—"
        values = [percent(figures.get(column), 1) for column in columns]
        cells.append([name, str(facts["classes"]), target, *values])
    meanings = {c: next(f[c] for f in shown.values() if c in f)["definition"] for c in columns}
    return [
        *_aligned(cells),
        "in percent, with 95 % intervals:",
        *(f"  {column}: {meaning}" for column, meaning in meanings.items()),
    ]


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
