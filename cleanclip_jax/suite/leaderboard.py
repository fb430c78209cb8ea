"""What the cells say together: by defence over attacks, by attack over defences, by detector."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

import numpy as np

from cleanclip_jax.detect.roc import auroc
from cleanclip_jax.report.page import Cell as Shown
from cleanclip_jax.report.page import Link
from cleanclip_jax.report.tables import spread, with_interval
from cleanclip_jax.suite.ledger import Row, Store, groups, value
from cleanclip_jax.suite.suites import CLEAN, Cell

TOOK = 0.1  # of ASR above its floor, in the poisoned models: with less an attack tells nothing
NEVER = "never"  # no rate of a defence brings the ASR down
Columns = list[str]


@dataclass(frozen=True)
class Result:
    """A defence against an attack: of each seed whose rates have all been run, the chosen rate.

    Attributes:
      chosen: by seed; None where the backdoor goes at no rate.
      rebound: by seed, of those whose chosen model was trained on.
    """

    chosen: Mapping[str, Row | None]
    rebound: Mapping[str, Row]

    @property
    def rows(self) -> list[Row]:
        """The chosen ones."""
        return [row for row in self.chosen.values() if row]

    def over_seeds(self, figure: str, rebound: bool = False) -> Shown:
        """A figure of the chosen rates with its interval: over the seeds, or of a single run."""
        return over(list(self.rebound.values()) if rebound else self.rows, figure)


def over(rows: Sequence[Row], figure: str) -> Shown:
    """The mean of a figure in percent, its interval on a second line; '' of no rows."""
    known = [row["figures"][figure] for row in rows if value(row, figure) is not None]
    middle = spread([each["value"] for each in known], known[0]["interval"] if known else None)
    return () if middle is None else cell(middle.mean, middle.interval)


def cell(share: float, interval: Sequence[float] | None = None) -> tuple[str, ...]:
    """A share in percent as a table's cell."""
    return tuple(with_interval(share, interval).split(" ", 1))


@dataclass(frozen=True)
class Board:
    """The figures of one set and model."""

    store: Store
    set: str
    model: str

    @cached_property
    def cells(self) -> list[Cell]:
        """Its cells, of every seed."""
        at = {"set": self.set, "model": self.model}
        every = self.store.all_cells()
        return [each for each in every if at.items() <= each.places.items()]

    @cached_property
    def attacks(self) -> list[str]:
        """All that the suite has."""
        return list(self.store.suite.content["attacks"])

    def place(self, attack: str) -> str:
        """Where on the page an attack's cells are."""
        words = f"{self.set}-{self.model}-{attack}"
        return "".join(c if c.isalnum() else "-" for c in words)

    def poisoned(self, attack: str) -> list[Row]:
        """The poisoned models' rows, one a seed."""
        some = self._rows("poisoned", attack=attack)
        return [row for _, row in some]

    @cached_property
    def weak(self) -> list[str]:
        """The attacks that did not take: there is no backdoor for a defence to remove."""
        rises = {
            attack: [
                asr - (value(row, "floor_asr") or 0.0)
                for row in self.poisoned(attack)
                if (asr := value(row, "asr")) is not None
            ]
            for attack in self.attacks
        }
        return [attack for attack, known in rises.items() if known and mean(known) < TOOK]

    def _rows(self, kind: str, **at: str) -> list[tuple[Cell, Row]]:
        wanted = {"kind": kind, **at}.items()
        some = (each for each in self.cells if wanted <= each.places.items())
        return [(each, row) for each in some if (row := self.store.row(each))]

    @cached_property
    def results(self) -> dict[tuple[str, str], Result]:
        """By defence and attack, those of which a seed is whole."""
        chosen: dict[tuple[str, str], dict[str, Row | None]] = {}
        rebounds = {
            (*_versus(each), each.places["seed"]): row for each, row in self._rows("rebound")
        }
        for rates in groups(each for each in self.cells if each.kind == "cleaned"):
            if all(self.store.row(each) for each in rates):
                row = self.store.row(self.store.chosen(rates))
                chosen.setdefault(_versus(rates[0]), {})[rates[0].places["seed"]] = row
        return {
            both: Result(rows, {s: rebounds[*both, s] for s in rows if (*both, s) in rebounds})
            for both, rows in chosen.items()
        }

    def by_defence(self) -> tuple[Columns, list[list[Shown]]]:
        """A row for each defence that was tried against an attack that took; those that hold
        against most come first.
        """
        columns = ["defence", "backdoor gone", "CA", "worst CA", "against", "CA gained", "PA"]
        columns += ["ASR, worst", "rebound ASR, worst", "pairs", "TFLOP", "seconds"]
        ranked = []
        for defence in self.store.suite.content["defences"]:
            strong = (a for a in self.attacks if a not in self.weak)
            met = {a: r for a in strong if (r := self.results.get((defence, a)))}
            if not met:
                continue
            tried = [row for each in met.values() for row in each.chosen.values()]
            gone = [row for row in tried if row]
            lost = [a for a, each in met.items() if None in each.chosen.values()]
            by_attack = {a: _mean(each.rows, "ca") for a, each in met.items() if each.rows}
            worst = min(by_attack, key=lambda a: by_attack[a], default=None)
            back = [row for each in met.values() for row in each.rebound.values()]
            cost = self._cost(defence)
            ranked.append(
                (
                    (-len(gone) / len(tried), -mean(by_attack.values()) if by_attack else 0.0),
                    [
                        *(defence, f"{len(gone)} of {len(tried)}", _mean_over_attacks(met)),
                        NEVER if lost else cell(by_attack[worst]) if worst else "",
                        ", ".join(lost) if lost else worst or "",
                        self._gain(met),
                        over_attacks(gone, "pa", mean),
                        *(over_attacks(gone, "asr", max), over_attacks(back, "asr", max)),
                        *cost,
                    ],
                )
            )
        return columns, [row for _, row in sorted(ranked, key=lambda pair: pair[0])]

    def _gain(self, met: Mapping[str, Result]) -> Shown:
        """CA over that of the poisoned models of the same seeds, in points."""
        before = {
            (each.places["attack"], each.places["seed"]): value(row, "ca")
            for each, row in self._rows("poisoned")
        }
        gains = [
            ca - earlier
            for attack, result in met.items()
            for seed, row in result.chosen.items()
            if row and (earlier := before.get((attack, seed))) is not None
            if (ca := value(row, "ca")) is not None
        ]
        return f"{100 * mean(gains):+.1f}" if gains else ""

    def _cost(self, defence: str) -> list[str]:
        """Of one rate's training: pairs, TFLOP, seconds."""
        costs = [row["cost"] for _, row in self._rows("cleaned", defence=defence)]
        means = []
        for key, scale, form in (
            ("pairs", 1, ",.0f"),
            ("flops", 1e12, ",.3g"),
            ("seconds", 1, ".0f"),
        ):
            known = [cost[key] for cost in costs if cost.get(key) is not None]
            means.append(format(mean(known) / scale, form) if known else "")
        return means

    def by_attack(self) -> tuple[Columns, list[list[Shown]]]:
        """A row for each attack, run or not: the poisoned model, then CA by defence."""
        defences = list(self.store.suite.content["defences"])
        columns = ["attack", "poisoned CA", "ASR", "floor", *defences]
        rows: list[list[Shown]] = []
        for attack in self.attacks:
            poisoned, to = self.poisoned(attack), self.place(attack)
            row: list[Shown] = [(Link(attack, to),) if poisoned else attack]
            row += [over(poisoned, figure) for figure in ("ca", "asr", "floor_asr")]
            for defence in defences:
                result = self.results.get((defence, attack))
                lines = () if result is None else result.over_seeds("ca") or (NEVER,)
                row.append((Link(lines[0], to), *_how_many(result, lines)) if lines else "")
            rows.append(row)
        return columns, rows

    def by_detector(self) -> tuple[Columns, list[list[Shown]]]:
        """A row for each detector and attack that it was tried on."""
        columns = [
            "detector",
            "attack",
            "AUROC",
            "TPR at 5 % FPR",
            "at 1 % FPR",
            "seeds",
            "seconds",
        ]
        rows: list[list[Shown]] = []
        for detector, facts in self.store.suite.content["detectors"].items():
            if facts["kind"] == "model":
                rows += self._of_models(detector)
                continue
            for attack in self.attacks:
                some = [row for _, row in self._rows("detector", detector=detector, attack=attack)]
                if some:
                    figures = ("auroc", "tpr_at_fpr_5", "tpr_at_fpr_1")
                    shown = [over(some, figure) for figure in figures]
                    seconds = mean(row["cost"]["seconds"] for row in some)
                    name = (Link(attack, self.place(attack)),)
                    rows.append([detector, name, *shown, str(len(some)), f"{seconds:.0f}"])
        return columns, rows

    def _of_models(self, detector: str) -> list[list[Shown]]:
        """All attacks at once: how often a poisoned model has the smaller patch of two."""
        sizes: dict[bool, list[float]] = {True: [], False: []}
        seconds = []
        for each, row in self._rows("detector", detector=detector):
            if (size := value(row, "share")) is not None:
                sizes[each.places["attack"] == CLEAN].append(size)
                seconds.append(row["cost"]["seconds"])
        if not sizes[True] or not sizes[False]:
            return []
        share, interval = auroc(-np.array(sizes[False]), -np.array(sizes[True]))
        models = f"{len(sizes[False])} models, {len(sizes[True])} clean"
        return [[detector, "all", cell(share, interval), "", "", models, f"{mean(seconds):.0f}"]]


def _versus(each: Cell) -> tuple[str, str]:
    return each.places["defence"], each.places["attack"]


def _mean(rows: Iterable[Row], figure: str) -> float:
    return mean(known for row in rows if (known := value(row, figure)) is not None)


def _mean_over_attacks(met: Mapping[str, Result]) -> Shown:
    """The mean over attacks of each seed, then over the seeds."""
    by_seed: dict[str, list[float]] = {}
    for result in met.values():
        for seed, row in result.chosen.items():
            if row and (ca := value(row, "ca")) is not None:
                by_seed.setdefault(seed, []).append(ca)
    middle = spread([mean(values) for values in by_seed.values()])
    return "" if middle is None else cell(middle.mean, middle.interval)


def over_attacks(rows: Sequence[Row], figure: str, how) -> Shown:
    """A figure of all attacks and seeds as one number."""
    known = [share for row in rows if (share := value(row, figure)) is not None]
    return cell(how(known)) if known else ""


def _how_many(result: Result | None, lines: Sequence[str]) -> list[str]:
    """The interval's line, or how many seeds got there where not all did."""
    if result is None or len(result.rows) == len(result.chosen) or not result.rows:
        return list(lines[1:])
    return [*lines[1:], f"{len(result.rows)} of {len(result.chosen)} seeds"]
