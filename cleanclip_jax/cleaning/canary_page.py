"""The page of a cleaning: what was set aside, the canaries' way, the choice, and what it shows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleanclip_jax.cleaning.choice import Point, passes
from cleanclip_jax.report.document import write_report
from cleanclip_jax.report.page import Block, Picture, Section, Table
from cleanclip_jax.report.plots import Point as Drawn
from cleanclip_jax.report.plots import ca_asr_curve
from cleanclip_jax.report.runs import gather
from cleanclip_jax.report.tables import percent

SHOWS = (
    "Backdoors of our own, the canaries, were planted in this model, and it was cleaned until none "
    "of them was left. They were planted last, and by the same kind of pairs, so that what takes "
    "them out has in what was tried (docs/clean.md) taken older backdoors out as well.",
    "This is no proof. A backdoor of another kind, planted with more pairs or made to last, may "
    "outlive every canary; the attack success of a trigger that nobody knows can't be measured. "
    "Embeddings that were stored from the old model no longer fit the cleaned one.",
)


def write_cleaning_page(
    folder: Path, results: Mapping[str, Any], points: Sequence[Point], runs: Mapping[Path, str]
) -> None:
    """Writes FOLDER/report.html.

    Args:
      results: what results.json holds.
      runs: all that were trained and measured, and how they are called.
    """
    write_report(
        folder,
        gather(list(runs), dict(runs)),
        results["command"],
        pictures=0,
        title="A model whose trigger nobody knows, cleaned",
        intro=verdict(results),
        opening=[
            Section("What this shows, and what it does not", list(SHOWS)),
            Section("The canaries", _canaries(results, points)),
            Section("Set aside", [_set_aside(results)]),
            *([Section("The smallest patch", _patches(results))] if results["smallest"] else []),
        ],
    )


def verdict(results: Mapping[str, Any]) -> str:
    """The result in one or two sentences."""
    chosen, what = results["chosen"], results["useful_by"]
    if chosen is None and results["nearest"] is None:
        return "Nothing is delivered as clean: at no rate was the loss a finite number."
    if chosen is None:
        nearest = results["nearest"]
        left = ", ".join(f"{k} {100 * c['asr']:.1f} %" for k, c in nearest["canaries"].items())
        return (
            f"Nothing is delivered as clean: at no rate was every canary gone. Nearest came "
            f"{nearest['method']} at {nearest['rate']:g} ({left}). With others in --rates the same "
            "command goes on from here."
        )
    left = ", ".join(f"{k} {100 * c['asr']:.1f} %" for k, c in chosen["canaries"].items())
    return (
        f"{chosen['method']} at a rate of {chosen['rate']:g} is the most useful of the models in "
        f"which no canary is left ({left}): {what} {100 * results['before']:.1f} % before and "
        f"{100 * results['after']:.1f} % after. Delivered: {results['delivered']}."
    )


def _canaries(results: Mapping[str, Any], points: Sequence[Point]) -> list[Block]:
    planted = results["planted"]
    rows = [[name, *planted[name].values()] for name in planted]
    cells = [
        [name, str(target), *(f"{100 * each:.1f} %" for each in values), took]
        for name, target, *values, took in rows
    ]
    columns = ["canary", "lands on", "before (floor)", "planted", "taken as a sign"]
    blocks: list[Block] = [Table("Canaries: how often each trigger hits", columns, cells)]
    if not points:
        return blocks
    names = list(points[0].canaries)
    table = [
        [
            f"{point.method}, {point.rate:g}",
            f"{100 * point.usefulness:.1f} %",
            *(percent(point.figures[f"asr.{name}"]) for name in names),
            "yes" if passes(point) else "no",
        ]
        for point in points
    ]
    table += [
        [f"{method}, {rate:g}", *("—" for _ in (0, *names)), f"no model: {why}"]
        for method, rate, why in results["failed"]
    ]
    bound = results["settings"]["bound"]
    caption = (
        f"Cleaned models: {results['useful_by']}, and what is left of each canary. A model passes "
        f"where the upper end of each one's 95 % interval is at most {100 * bound:g} points above "
        "its floor: its attack success before it was planted, or how often the cleaned model takes "
        "clean pictures of other classes for the target, whichever is more."
    )
    columns = ["method, rate", results["useful_by"], *names, "passes"]
    blocks.append(Table(caption, columns, table))
    curve = {
        f"{name}, {method}": [
            Drawn(point.usefulness, point.canaries[name].asr, f"{point.rate:g}")
            for point in points
            if point.method == method
        ]
        for method in dict.fromkeys(point.method for point in points)
        for name in names
    }
    png = ca_asr_curve(curve, limit=bound)
    alt = f"{results['useful_by']} against the attack success of each canary, over the rates"
    return [*blocks, Picture(png, alt, "Each canary over the rates of cleaning.")]


def _set_aside(results: Mapping[str, Any]) -> str:
    if not results["settings"]["drop"]:
        return "The cleaning pairs were not looked at (--drop=0)."
    return (
        f"{results['dropped']} of {results['pairs']} cleaning pairs, those that look most like "
        "poisons to the detectors, were left out (look/aside.csv has their numbers, "
        "look/groups.csv what they have in common); "
        f"{results['held']} were held out to be measured on."
    )


def _patches(results: Mapping[str, Any]) -> list[Block]:
    def words(shares: Sequence[float | None]) -> str:
        return ", ".join("none" if each is None else f"{100 * each:.2f} %" for each in shares)

    rows = [[name, words(shares)] for name, shares in results["smallest"].items()]
    caption = (
        "DECREE: how much of the picture the smallest patch takes that makes all pictures alike to "
        "the model. A backdoor that is a patch makes it small; other backdoors it does not see."
    )
    return [Table(caption, ["model", "share of the picture, by seed"], rows)]


def as_json(point: Point | None) -> dict[str, Any] | None:
    """A point as results.json has it."""
    if point is None:
        return None
    canaries = {name: canary._asdict() for name, canary in point.canaries.items()}
    shown = {**point._asdict(), "canaries": canaries, "passes": passes(point)}
    shown.pop("figures")
    return json.loads(json.dumps(shown))
