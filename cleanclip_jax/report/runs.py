"""Runs as a report reads them: what lies in their workdirs, and which may share a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.config import defaults, flatten, from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.report.sweeps import FIGURES, Grid, Row, along, groups, shares, short_names
from cleanclip_jax.workdir import workdir_path

MEASURED = "evaluation.json"
SWEEP = "sweep.json"


@dataclass(frozen=True, eq=False)
class Run:
    """A measured run: its folder, its config and what evaluation.json holds."""

    folder: Path
    config: ConfigDict
    found: Mapping[str, Any]

    @property
    def start(self) -> Path | None:
        """The run, or checkpoint, that it began with."""
        return workdir_path(self.config.start) if self.config.start else None

    @property
    def method(self) -> str:
        """What kind of training it was, in words."""
        o, poisoned = self.config.objective, self.config.attack is not None
        if o.classification:
            head_alone = self.config.train.trainable == "head"
            return "linear probe" if head_alone else "supervised finetuning"
        terms = "MMCL and in-modal" if o.in_modal else "MMCL"
        if self.start is None:
            return f"{'poisoned' if poisoned else 'clean'} pretraining, {terms}"
        if poisoned:
            return f"poisoned finetuning, {terms}"
        return f"{'CleanCLIP' if o.in_modal else 'MMCL'} finetuning"

    @property
    def newest(self) -> int | None:
        """The step of its newest checkpoint; None without one."""
        folder = self.folder / "checkpoints"
        steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
        return max(steps, default=None)

    def changed_keys(self) -> dict[str, Any]:
        """The config's keys whose values are not the defaults."""
        usual = flatten(defaults())
        return {
            key: value
            for key, value in flatten(self.config).items()
            if key not in usual or usual[key] != value
        }


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the tables: one run, or runs that differ by their seed.

    Attributes:
      line: the line of the curve that it is a point of; its name there is `label`.
      sweep: the folder it is from, None for a run that was named itself.
    """

    name: str
    runs: Sequence[Run]
    line: str
    label: str = ""
    sweep: Path | None = None

    def rows(self, prefix: str = "") -> list[Row]:
        """A sweep's rows of its runs, of the set whose figures' names have that prefix."""
        return [
            shares(
                {
                    name.removeprefix(prefix): figure
                    for name, figure in run.found["figures"].items()
                    if name.startswith(prefix)
                }
            )
            for run in self.runs
        ]


@dataclass
class Gathered:
    """What a report is about.

    Attributes:
      entries: in the order asked for; starts that nobody named come first.
      starts: the entries that others began with.
      added: the starts that nobody named.
      sweeps: what sweep.json holds, by its folder.
      notes: what a reader must know beside the tables.
    """

    entries: list[Entry] = field(default_factory=list)
    starts: list[Entry] = field(default_factory=list)
    added: list[Entry] = field(default_factory=list)
    sweeps: dict[Path, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_run(folder: Path) -> Run:
    """Reads a workdir.

    Raises:
      UserError: it is none, or it is not measured yet.
    """
    config = from_json(folder / "config.json")
    path = folder / MEASURED
    if not path.is_file():
        raise UserError(f"{folder} is not measured yet: cleanclip evaluate --workdir={folder}")
    found = _json(path)
    if "figures" not in found:
        raise UserError(
            f"{path} is of an older program: measure it again: cleanclip evaluate "
            f"--workdir={folder}"
        )
    return Run(folder, config, found)


def gather(folders: Sequence[Path], names: Mapping[Path, str] | None = None) -> Gathered:
    """Reads workdirs and sweeps' folders, and the measured runs that they began with.

    Args:
      names: what to call a workdir; by default the end of its path that tells it apart.

    Raises:
      UserError: no folder, one that is neither, or a run that is not measured.
    """
    told = {**short_paths(folders), **(names or {})}
    gathered = Gathered()
    for folder in folders:
        if (folder / SWEEP).is_file():
            _read_sweep(gathered, folder, told[folder] if len(folders) > 1 else "")
        else:
            name = told[folder]
            gathered.entries.append(Entry(name, [read_run(folder)], name))
    _read_starts(gathered)
    for entry in gathered.entries:
        for run in entry.runs:
            if run.newest not in (None, run.found["step"]):
                gathered.notes.append(
                    f"{run.folder} was measured at step {run.found['step']}; its newest "
                    f"checkpoint is of step {run.newest}."
                )
    return gathered


def measured_on(run: Run) -> str:
    """What runs must share to stand in one table: pictures, classes, target, trigger, definitions.

    A head instead of prompts, or other prompts, is another model, and is said beside.
    """
    found = run.found
    sets = {
        name: [facts["fingerprint"], facts["classes"], facts["target"]]
        for name, facts in found["sets"].items()
    }
    if found["retrieval"]:
        sets["retrieval"] = [found["retrieval"][key] for key in ("fingerprint", "target")]
    definitions = {
        k: found["figures"][k]["definition"] for k in FIGURES[:5] if k in found["figures"]
    }
    asked = [found["trigger"], found["geometry"], sets, definitions]
    return json.dumps(asked, sort_keys=True)


def measured_in_words(run: Run) -> str:
    """The sets, the trigger and the target that a run was measured with."""
    found, words = run.found, []
    for name, facts in found["sets"].items():
        target = f", target “{facts['target']['name']}”" if facts["target"] else ""
        pictures = facts["pictures"]["labelled"] - facts["pictures"]["unreadable"]
        words.append(f"{name}: {pictures} pictures of {facts['classes']} classes{target}")
    if found["retrieval"]:
        facts = found["retrieval"]
        words.append(f"retrieval: {facts['pictures']} pictures, {facts['captions']} captions")
    if found["trigger"]:
        trigger = ", ".join(f"{key} {value}" for key, value in found["trigger"].items())
        words.append(f"trigger: {trigger}; pictures come to their size by {found['geometry']}")
    return ". ".join(words) + "."


def scored_by(entry: Entry) -> str:
    """What gave the first set's classes their scores."""
    kinds = [next(iter(run.found["sets"].values()), None) for run in entry.runs]
    return ", ".join(dict.fromkeys(facts["classifier"] for facts in kinds if facts)) or "—"


def short_paths(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that tell them apart.

    Raises:
      UserError: a folder is named twice.
    """
    parts = {folder: folder.resolve().parts for folder in folders}
    if len(set(parts.values())) < len(folders):
        raise UserError("two of the folders are the same: name each once")
    ends: dict[Path, str] = {}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        ends = {folder: "/".join(part[-length:]) for folder, part in parts.items()}
        if len(set(ends.values())) == len(ends):
            break
    return ends


def _read_sweep(gathered: Gathered, folder: Path, prefix: str) -> None:
    found = _json(folder / SWEEP)
    grid: Grid = found["over"]
    rows = []
    for row in found["runs"]:
        # Where the sweep was is not always where it lies.
        place = folder / "runs" / Path(row["workdir"]).name
        if "error" in row:
            gathered.notes.append(f"{place} failed: {row['error']}")
        else:
            rows.append({**row, "workdir": str(place)})
    if not rows:
        raise UserError(f"{folder}: no run of this sweep is measured")
    gathered.sweeps[folder] = {**found, "runs": rows}
    named, way = short_names(list(grid)), along(grid)
    for values, members in groups(grid, rows).items():
        keys = dict(zip((key for key in grid if key != "seed"), values, strict=True))
        words = [f"{named[key]} {value}" for key, value in keys.items()]
        line = [f"{named[key]} {value}" for key, value in keys.items() if key != way]
        runs = [read_run(workdir_path(row["workdir"])) for row in members]
        gathered.entries.append(
            Entry(
                name=": ".join(filter(None, (prefix, ", ".join(words)))) or folder.name,
                runs=runs,
                line=": ".join(filter(None, (prefix, ", ".join(line))))
                or (named[way] if way else folder.name),
                label=keys[way] if way else "",
                sweep=folder,
            )
        )


def _read_starts(gathered: Gathered) -> None:
    """Tells which entries others began with; adds those that are measured and not named."""
    given = {run.folder.resolve(): e for e in gathered.entries for run in e.runs}
    unnamed: dict[tuple[str, str], list[Run]] = {}
    for entry in list(gathered.entries):
        for run in entry.runs:
            start = run.start
            if start is None or not (start / "config.json").is_file():
                continue
            if start.resolve() in given:
                known = given[start.resolve()]
                if known is not entry and known not in gathered.starts:
                    gathered.starts.append(known)
            elif (start / MEASURED).is_file():
                key = (str(entry.sweep or start), measured_on(run))
                others = unnamed.setdefault(key, [])
                if start.resolve() not in {other.folder.resolve() for other in others}:
                    others.append(read_run(start))
            else:
                gathered.notes.append(
                    f"What {run.folder} began with is not measured: cleanclip evaluate "
                    f"--workdir={start}"
                )
    # Two sweeps may begin with the same runs.
    distinct = {tuple(run.folder.resolve() for run in runs): runs for runs in unnamed.values()}
    gathered.added = [
        Entry(f"start: {runs[0].folder.name}" if len(runs) == 1 else "start", runs, "start")
        for runs in distinct.values()
    ]
    gathered.entries[:0] = gathered.added
    gathered.starts[:0] = gathered.added


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
