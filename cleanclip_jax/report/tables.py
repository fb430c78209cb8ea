"""Figures in tables: of one run in full, and the means and intervals of several."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import pandas as pd

from cleanclip_jax.errors import printable

FIGURES = (
    *("ca", "asr", "asr_all", "pa", "clean_target_rate", "floor_asr", "control_ca"),
    *("retrieval.image_to_text_r1", "retrieval.text_to_image_r1", "retrieval.backdoor_r1"),
)
# What the interval of each kind is, in words for a table's caption.
SEEDS = "mean and Student's 95 % interval over the seeds, cut at 0 and 100"
PICTURES = "one run with Wilson's 95 % interval over the pictures"

# Of several sets, the columns of the one table for a terminal.
COLUMNS = FIGURES[:7]
TOP = re.compile(r"_top(\d+)$")

Row = dict[str, Any]
Figures = Mapping[str, Mapping[str, Any]]
Frame = Any  # a pandas.DataFrame; pyright doesn't follow what is computed with one


@dataclass(frozen=True)
class Spread:
    """A share (a fraction) over `n` runs."""

    mean: float
    deviation: float | None  # standard deviation between the runs; None of one
    interval: tuple[float, float] | None  # of the mean, or one run's over its pictures, if known
    of: str  # "seeds" or "pictures"
    n: int

    def __str__(self) -> str:
        """'55.4 [53.2, 57.6]', in percent."""
        return with_interval(self.mean, self.interval)


def with_interval(
    value: float, interval: Sequence[float] | None, digits: int = 1, scale: int = 100
) -> str:
    """'55.4 [53.2, 57.6]' of a share in percent; with `scale` 1 of a number as it is."""
    ends = ", ".join(f"{scale * end:.{digits}f}" for end in interval or ())
    return f"{scale * value:.{digits}f}{ends and f' [{ends}]'}"


def spread(
    values: Sequence[float | None], interval: Sequence[float] | None = None
) -> Spread | None:
    """The spread of a figure over runs that differ by their seed; None where none has it.

    The interval is mean ± t · s / √n, t being Student's 97.5 % point for n - 1 degrees of freedom
    (4.30 for three seeds). It takes the seeds' values as normal, which shares near 0 or 1 are not.

    Args:
      interval: of one run, where there is one only.
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return None
    middle, n = mean(known), len(known)
    if n == 1:
        ends = None if interval is None else (interval[0], interval[1])
        return Spread(middle, None, ends, "pictures", 1)
    deviation = stdev(known)
    # Deferred: a second, for which no command's --help should wait.
    from scipy.stats import t

    scale = deviation / math.sqrt(n)
    low, high = t.interval(0.95, n - 1, middle, scale) if scale else (middle, middle)
    ends = max(0.0, float(low)), min(1.0, float(high))
    return Spread(middle, deviation, ends, "seeds", n)


def values_of(figures: Figures) -> Row:
    """A sweep's row of what evaluation.json says: values, and the intervals of each."""
    known = {key: figures[key] for key in FIGURES if key in figures}
    return {
        **{key: figure["value"] for key, figure in known.items()},
        "intervals": {key: figure["interval"] for key, figure in known.items()},
    }


def table_of(rows: Sequence[Row]) -> Frame:
    """Rows as a table: intervals as ca_low, ca_high and so on, without what no cell can hold."""
    flat = []
    for row in rows:
        flat.append({key: row[key] for key in row if key not in ("intervals", "course")})
        for figure, interval in row.get("intervals", {}).items():
            flat[-1][f"{figure}_low"], flat[-1][f"{figure}_high"] = interval or (None, None)
    return pd.DataFrame(flat)


def over_rows(table: Frame, figure: str) -> Spread | None:
    """A figure's spread over a table's rows, with the interval of one that is alone."""
    if figure not in table:
        return None
    interval = None
    if len(table) == 1 and f"{figure}_low" in table:
        low, high = table[[f"{figure}_low", f"{figure}_high"]].iloc[0]
        interval = None if pd.isna(low) else (float(low), float(high))
    return spread(table[figure].astype(float).tolist(), interval)


def percent(figure: Mapping[str, Any] | None, digits: int = 2) -> str:
    """'97.25 [95.15, 98.46]' of a share in percent, a rank or a number as it is; '—' of nothing."""
    if figure is None or figure["value"] is None:
        return "—"
    value, interval = figure["value"], figure["interval"]
    if figure["unit"] == "rank":
        return with_interval(value, interval, int(value != int(value)), 1)
    if figure["unit"] == "number":
        return with_interval(value, interval, digits, 1)
    return with_interval(value, interval, digits)


def counted(figure: Mapping[str, Any]) -> str:
    """'389 of 400', or 'of 400' for what is no share."""
    return f"{figure['count']} of {figure['of']}" if "count" in figure else f"of {figure['of']}"


def in_words(classifier: str) -> str:
    """What scored a set's classes, as evaluation.json has it: "text, 1 templates" is prompts."""
    prompts = re.sub(r"^text, (1 template)?s?", r"from prompts, \1", classifier)
    return f"by a {classifier}" if prompts == classifier else prompts


def as_text(evaluation: Mapping[str, Any]) -> str:
    """An evaluation's figures with their 95 % intervals, for a terminal.

    One set is shown in full: a line a figure, with its count, its denominator and its definition,
    and below it the same among the top k. Of several each is a row.
    """
    sets, retrieval, every = (evaluation[key] for key in ("sets", "retrieval", "figures"))
    lines = [f"{evaluation['workdir']} at step {evaluation['step']}"]
    if floor := evaluation.get("floor"):
        lines.append(f"floor: {floor['workdir']} at step {floor['step']}, from prompts")
    # The first set's figures have no set's name before theirs.
    further = tuple(f"{name}." for name in [*list(sets)[1:], "retrieval"])
    main = {"": {key: figure for key, figure in every.items() if not key.startswith(further)}}
    names = ["" if row == 0 else name for row, name in enumerate(sets)]
    figures = [main.get(name) or with_prefix(every, f"{name}.") for name in names]
    if len(sets) > 1:
        lines += _rows(sets, figures)
    for name, facts in sets.items():
        scored, target = f"scored {in_words(facts['classifier'])}", facts["target"]
        if len(sets) == 1:
            goal = f", target {target['name']!r} ({target['index']})" if target else ""
            count = f"{facts['classes']} classes, {scored}{goal}"
            lines += [f"{name}: {count}; in percent, with 95 % intervals", *_in_full(figures[0])]
        elif len({facts["classifier"] for facts in sets.values()}) > 1:
            lines.append(f"  {name}: {scored}")
        lines += [f"  {name}: {facts['note']}"] if facts["note"] else []
        left_out = _left_out(facts["pictures"], "without_class", "unreadable")
        lines += [f"  {name}: {text}" for text in left_out]
    for name, scores in (evaluation.get("branches") or {}).items():
        known = {asr: facts for asr, facts in scores.items() if facts}
        lines += [f"{name}, {asr}: {_holder(facts)}" for asr, facts in known.items()]
    if retrieval:
        target = f", target {retrieval['target']!r}" if retrieval["target"] else ""
        counts = f"{retrieval['pictures']} pictures, {retrieval['captions']} captions"
        lines += [f"retrieval: {counts}{target}", *_in_full(with_prefix(every, "retrieval."))]
        kinds = ("unreadable", "without_caption", "empty_captions")
        lines += [f"  {text}" for text in _left_out(retrieval, *kinds)]
    return "\n".join(map(printable, lines))


def _holder(facts: Mapping[str, Any]) -> str:
    """Whose tower holds a backdoor, of measure.branches."""
    if facts["vrs"] is None:
        return f"signal {facts['signal']:.3f}, too weak to say whose tower holds the backdoor"
    names = {"vrs": "the image tower", "trs": "the text tower", "css": "both towers together"}
    scores = ", ".join(f"{name.upper()} {facts[name]:.3f}" for name in names)
    return f"{scores}; {names.get(facts['holder'], 'no tower')} clearly holds the backdoor"


def with_prefix(figures: Figures, prefix: str) -> Figures:
    """Those figures whose names begin so, without that."""
    return {k.removeprefix(prefix): f for k, f in figures.items() if k.startswith(prefix)}


def _left_out(facts: Mapping[str, Any], *kinds: str) -> list[str]:
    return [
        f"left out: {facts[kind]} {kind.replace('_', ' ')}" for kind in kinds if facts.get(kind)
    ]


def _in_full(figures: Figures) -> list[str]:
    names = [name for name in figures if not TOP.search(name)]
    lines, width = [], max([26, *(len(name) + 1 for name in names)])
    for name in names:
        figure = figures[name]
        columns = f"  {name:<{width}}{percent(figure):<24}{counted(figure):<18}"
        lines.append(columns + figure["definition"])
        tops = {k[len(name) + 4 :]: f for k, f in figures.items() if TOP.sub("", k) == name != k}
        if tops:
            cells = "  ".join(map(percent, tops.values()))
            lines.append("  " + f"  among the top {'/'.join(tops)}".ljust(width) + cells)
    return lines


def _rows(sets: Figures, figures: Sequence[Figures]) -> list[str]:
    columns = [c for c in COLUMNS if any(c in some for some in figures)]
    rows = [["set", "classes", "target", *columns]]
    for (name, facts), some in zip(sets.items(), figures, strict=True):
        target = facts["target"]["name"] if facts["target"] else "—"
        values = [percent(some.get(column), 1) for column in columns]
        rows.append([name, str(facts["classes"]), target, *values])
    meanings = {c: next(f[c] for f in figures if c in f)["definition"] for c in columns}
    texts = [f"  {column}: {meaning}" for column, meaning in meanings.items()]
    return [*_aligned(rows), "in percent, with 95 % intervals:", *texts]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(row).rstrip() for row in cells]
