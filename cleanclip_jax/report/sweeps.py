"""What a sweep's runs give together: means over seeds, lines of the curve, the best at an ASR."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from cleanclip_jax.report.plots import Point
from cleanclip_jax.report.spread import PICTURES, SEEDS, Spread, spread

FIGURES = (
    *("ca", "asr", "asr_all", "pa", "clean_target_rate", "floor_asr", "control_ca"),
    *("retrieval.image_to_text_r1", "retrieval.text_to_image_r1", "retrieval.backdoor_r1"),
)
LIMITS = (0.01, 0.05, 0.10)  # of ASR
SEED = "seed"

Row = dict[str, Any]
Grid = Mapping[str, Sequence[str]]


def shares(figures: Mapping[str, Mapping[str, Any]]) -> Row:
    """A table's row of what evaluation.json says: values, and their own intervals."""
    known = {key: figures[key] for key in FIGURES if key in figures}
    return {
        **{key: figure["value"] for key, figure in known.items()},
        "intervals": {key: figure["interval"] for key, figure in known.items()},
    }


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """{'optimizer.learning_rate': 'learning_rate'}; keys that end alike keep their whole names."""
    lasts = [key.rsplit(".", 1)[-1] for key in keys]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)
    }


def groups(grid: Grid, rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows that differ by their seed only, under the values of the other keys."""
    keys = [key for key in grid if key != SEED]
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def along(grid: Grid) -> str | None:
    """The key that a line of the curve runs along: the learning rate, else the first."""
    keys = [key for key in grid if key != SEED]
    rates = [key for key in keys if key.endswith("learning_rate")]
    return (rates or keys or [None])[0]


def lines(grid: Grid, rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """The curve's lines by name: the good rows of each of their points, by the point's name.

    A line holds one combination of the keys that it doesn't run along.
    """
    named, way = short_names(list(grid)), along(grid)
    found: dict[str, dict[str, list[Row]]] = {}
    for members in groups(grid, rows).values():
        good = [row for row in members if row.get("ca") is not None]
        if good:
            keys = [key for key in grid if key not in (SEED, way)]
            name = ", ".join(f"{named[key]} {good[0][key]}" for key in keys)
            points = found.setdefault(name or (named[way] if way else "runs"), {})
            points[good[0][way] if way else ""] = good
    return found


def figure_over(rows: Sequence[Row], figure: str) -> Spread | None:
    """A figure's spread over the rows, with the interval of one that is alone."""
    own = rows[0].get("intervals", {}).get(figure) if len(rows) == 1 else None
    return spread([row.get(figure) for row in rows], own)


def curve(grid: Grid, rows: Sequence[Row]) -> dict[str, list[Point]]:
    """Each line's points, means over the seeds."""
    found: dict[str, list[Point]] = {}
    for name, points in lines(grid, rows).items():
        drawn = [(label, _middle(members)) for label, members in points.items()]
        places = [Point(*place, label) for label, place in drawn if place is not None]
        if places:
            found[name] = places
    return found


def courses(grid: Grid, rows: Sequence[Row]) -> dict[str, list[Point]]:
    """CA and ASR as training goes on: a line a group, its points named by their steps.

    A point is the mean over the seeds that were measured at its step.
    """
    named = short_names(list(grid))
    keys = [key for key in grid if key != SEED]
    found: dict[str, list[Point]] = {}
    for values, members in groups(grid, rows).items():
        steps: dict[int, list[Row]] = {}
        for row in members:
            for place in row.get("course", ()):
                steps.setdefault(place["step"], []).append(place)
        middles = [(step, _middle(steps[step])) for step in sorted(steps)]
        name = ", ".join(f"{named[key]} {value}" for key, value in zip(keys, values, strict=True))
        drawn = [Point(*place, str(step)) for step, place in middles if place is not None]
        if drawn:
            found[name or "runs"] = drawn
    return found


def best(grid: Grid, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The best CA at each limit of ASR, line by line, chosen for each seed by itself.

    Chosen among the line's points and, where they were measured, the steps on the way to them;
    the choice is made on the pictures that CA and ASR are counted on, which flatters it a little.

    Returns:
      a dictionary a line and limit: "line", "limit", "ca" (the spread, None where no seed stays
      below), "chosen" ({seed: where}), "seeds" how many there are.
    """
    found = []
    named, way = short_names(list(grid)), along(grid)
    for line, points in lines(grid, rows).items():
        seeds: dict[str, list[tuple[float, float, str, Any]]] = {}
        for label, members in points.items():
            for row in members:
                where = f"{named[way]} {label}" if way else "as configured"
                own = seeds.setdefault(str(row.get(SEED, "")), [])
                for place in (row, *row.get("course", ())):
                    if place.get("asr") is not None:
                        at = f", step {place['step']}" if place is not row else ""
                        interval = place.get("intervals", {}).get("ca")
                        own.append((place["ca"], place["asr"], where + at, interval))
        if not any(seeds.values()):
            continue
        for limit in LIMITS:
            chosen = {}
            for seed, places in seeds.items():
                below = [place for place in places if place[1] <= limit]
                if below:
                    chosen[seed] = max(below, key=lambda place: place[0])
            alone = next(iter(chosen.values()))[3] if len(chosen) == 1 == len(seeds) else None
            found.append(
                {
                    "line": line,
                    "limit": limit,
                    "ca": spread([place[0] for place in chosen.values()], alone),
                    "chosen": {seed: place[2] for seed, place in chosen.items()},
                    "seeds": len(seeds),
                }
            )
    return found


def cells(grid: Grid, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the table of means: the keys, how many runs, the figures."""
    named = short_names(list(grid))
    shown = [figure for figure in FIGURES if any(row.get(figure) is not None for row in rows)]
    table = []
    for values, members in groups(grid, rows).items():
        good = [row for row in members if "error" not in row]
        count = f"{len(good)}" if len(good) == len(members) else f"{len(good)} of {len(members)}"
        found = [figure_over(good, figure) if good else None for figure in shown]
        table.append([*values, count, *("—" if each is None else str(each) for each in found)])
    return [*(named[key] for key in grid if key != SEED), "runs", *shown], table


def best_cells(found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """`best` as columns and rows: a line of the curve each, a column a limit."""
    rows: dict[str, list[str]] = {}
    for each in found:
        short = f" ({each['ca'].n} of {each['seeds']} seeds)" if each["ca"] is not None else ""
        full = each["ca"] is None or each["ca"].n == each["seeds"]
        said = "none" if each["ca"] is None else f"{each['ca']}{'' if full else short}"
        rows.setdefault(each["line"], [each["line"]]).append(said)
    return ["line", *(f"ASR ≤ {100 * limit:g} %" for limit in LIMITS)], list(rows.values())


def intervals_said(grid: Grid) -> str:
    """What the intervals of a sweep's table are."""
    several = len(grid.get(SEED, ())) > 1
    return (
        f"In percent: {SEEDS}; of a single run, Wilson's."
        if several
        else f"In percent: {PICTURES}."
    )


def _middle(rows: Sequence[Row]) -> tuple[float, float] | None:
    """The mean CA and ASR of the rows that have both."""
    both = [row for row in rows if row.get("ca") is not None and row.get("asr") is not None]
    if not both:
        return None
    return mean(row["ca"] for row in both), mean(row["asr"] for row in both)
