"""What evaluation.json holds, as lines of text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Of several sets, the columns of the one table.
COLUMNS = ("ca", "asr", "asr_all", "pa", "clean_target_rate", "floor_asr", "control_ca")
TOP = re.compile(r"_top(\d+)$")

Figures = Mapping[str, Mapping[str, Any]]


def table(evaluation: Mapping[str, Any]) -> str:
    """The figures with their 95 % intervals; one set in full, of several a row for each.

    Full: a line a figure, with its count, its denominator and its definition, and below it the
    same among the top k.
    """
    sets, retrieval, every = (evaluation[key] for key in ("sets", "retrieval", "figures"))
    lines = [f"{evaluation['workdir']} at step {evaluation['step']}"]
    # The first set's figures have no set's name before theirs.
    figures = {name: _with_prefix(every, f"{name}.") for name in sets}
    for name in list(sets)[:1]:
        figures[name] = {key: figure for key, figure in every.items() if "." not in key}
    if len(sets) == 1:
        ((name, facts),) = sets.items()
        target = facts["target"]
        lines.append(
            f"{name}: {facts['classes']} classes, {facts['classifier']}"
            + (f", target {target['name']!r} ({target['index']})" if target else "")
            + "; in percent, with 95 % intervals"
        )
        lines += _in_full(figures[name])
    elif sets:
        lines += _rows(sets, figures)
    for name, facts in sets.items():
        lines += [f"  {name}: {facts['note']}"] if facts["note"] else []
        for text in _left_out(facts["pictures"], "without_class", "unreadable"):
            lines.append(f"  {name}: {text}")
    if retrieval:
        target = f", target {retrieval['target']!r}" if retrieval["target"] else ""
        pictures, captions = retrieval["pictures"], retrieval["captions"]
        lines.append(f"retrieval: {pictures} pictures, {captions} captions{target}")
        lines += _in_full(_with_prefix(every, "retrieval."))
        kinds = ("unreadable", "without_caption", "empty_captions")
        lines += [f"  {text}" for text in _left_out(retrieval, *kinds)]
    return "\n".join(lines)


def percent(figure: Mapping[str, Any] | None, digits: int = 2) -> str:
    """'97.25 [95.15, 98.46]' of a share in percent, or of a rank as it is; '—' of nothing."""
    if figure is None or figure["value"] is None:
        return "—"
    scale = 1 if figure["unit"] == "rank" else 100
    if figure["unit"] == "rank":
        digits = 0 if figure["value"] == int(figure["value"]) else 1
    value, *ends = (scale * x for x in (figure["value"], *(figure["interval"] or ())))
    return f"{value:.{digits}f}" + " [{:.{n}f}, {:.{n}f}]".format(*ends, n=digits) * bool(ends)


def counted(figure: Mapping[str, Any]) -> str:
    """'389 of 400', or 'of 400' for a rank."""
    return f"{figure['count']} of {figure['of']}" if "count" in figure else f"of {figure['of']}"


def _with_prefix(figures: Figures, prefix: str) -> Figures:
    return {k.removeprefix(prefix): f for k, f in figures.items() if k.startswith(prefix)}


def _left_out(facts: Mapping[str, Any], *kinds: str) -> list[str]:
    return [
        f"left out: {facts[kind]} {kind.replace('_', ' ')}" for kind in kinds if facts.get(kind)
    ]


def _in_full(figures: Figures) -> list[str]:
    lines = []
    for name, figure in figures.items():
        if TOP.search(name):
            continue
        columns = f"  {name:<26}{percent(figure):<24}{counted(figure):<18}"
        lines.append(columns + figure["definition"])
        tops = {k[len(name) + 4 :]: f for k, f in figures.items() if TOP.sub("", k) == name != k}
        if tops:
            cells = "  ".join(map(percent, tops.values()))
            lines.append("  " + f"  among the top {'/'.join(tops)}".ljust(26) + cells)
    return lines


def _rows(sets: Figures, figures: Mapping[str, Figures]) -> list[str]:
    columns = [c for c in COLUMNS if any(c in some for some in figures.values())]
    rows = [["set", "classes", "target", *columns]]
    for name, facts in sets.items():
        target = facts["target"]["name"] if facts["target"] else "—"
        values = [percent(figures[name].get(column), 1) for column in columns]
        rows.append([name, str(facts["classes"]), target, *values])
    meanings = {c: next(f[c] for f in figures.values() if c in f)["definition"] for c in columns}
    return [
        *_aligned(rows),
        "in percent, with 95 % intervals:",
        *(f"  {column}: {meaning}" for column, meaning in meanings.items()),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(row).rstrip() for row in cells]
