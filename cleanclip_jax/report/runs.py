"""Runs as a report reads them: what lies in their workdirs, and which may share a table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.config import defaults, flatten, from_json
from cleanclip_jax.errors import UserError, printable
from cleanclip_jax.report.sweeps import LIMITS, SHAPE, SWEEP, Sweep
from cleanclip_jax.report.tables import FIGURES, Frame, table_of, values_of, with_prefix
from cleanclip_jax.workdir import CHECKPOINTS, CONFIG, EVALUATION, MIX, Workdir, workdir_path

MOST_MODELS = 4  # that are loaded and drawn


@dataclass(frozen=True, eq=False)
class Run:
    """A measured run: its workdir, its config and what evaluation.json holds."""

    workdir: Workdir
    config: ConfigDict
    evaluation: Mapping[str, Any]

    @property
    def figures(self) -> Mapping[str, Mapping[str, Any]]:
        """The figures of evaluation.json."""
        return self.evaluation["figures"]

    @property
    def start(self) -> Path | None:
        """The run, or checkpoint, that it began with."""
        return workdir_path(self.config.start) if self.config.start else None

    @property
    def method(self) -> str:
        """What kind of training it was, in words."""
        if self.workdir.has(MIX):
            return "weights of two models, mixed"
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
        names = [path.name for path in (self.workdir / CHECKPOINTS).glob("*")]
        return max((int(name) for name in names if name.isdecimal()), default=None)

    def settings(self) -> dict[str, Any]:
        """The config's keys whose values are not the defaults."""
        usual, values = flatten(defaults()), flatten(self.config).items()
        return {key: value for key, value in values if key not in usual or usual[key] != value}


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the tables: one run, or runs that differ by their seed."""

    name: str
    runs: Sequence[Run]
    line: str  # the line of the curve that it is a point of
    label: str = ""  # its name there
    sweep: Path | None = None  # the folder it is from, None for a run that was named itself

    @property
    def floors(self) -> list[Mapping[str, Any]]:
        """The never poisoned models beside which its runs were measured."""
        return [floor for run in self.runs if (floor := run.evaluation.get("floor"))]

    def table(self, prefix: str = "") -> Frame:
        """The figures of its runs, of the set whose figures' names have that prefix."""
        return table_of([values_of(with_prefix(run.figures, prefix)) for run in self.runs])


@dataclass
class Gathered:
    """What a report is about."""

    # In the order in which they were named; starts that nobody named come first.
    entries: list[Entry] = field(default_factory=list)
    starts: list[Entry] = field(default_factory=list)  # those that others began with
    added: list[Entry] = field(default_factory=list)  # the starts that nobody named
    sweeps: dict[Path, Sweep] = field(default_factory=dict)
    commands: dict[Path | None, str] = field(default_factory=dict)  # that made the sweeps
    notes: list[str] = field(default_factory=list)  # for the reader, beside the tables

    @property
    def runs(self) -> Iterator[Run]:
        """The runs of all entries."""
        return (run for entry in self.entries for run in entry.runs)


def read_run(folder: Path) -> Run:
    """Reads a workdir, which has to be one and measured."""
    workdir = Workdir(folder)
    config = from_json(workdir / CONFIG)
    again = f"cleanclip evaluate --workdir={folder}"
    if not workdir.has(EVALUATION):
        raise UserError(f"{folder} is not measured yet: {again}")
    return Run(workdir, config, workdir.read_json(EVALUATION, todo=f"measure it again: {again}"))


def gather(folders: Sequence[Path], names: Mapping[Path, str] | None = None) -> Gathered:
    """Reads workdirs and sweeps' folders, and the measured runs that they began with.

    Args:
      names: what to call a workdir; by default the end of its path that tells it apart.
    """
    names = {**short_paths(folders), **(names or {})}
    gathered = Gathered()
    for folder in folders:
        name = names[folder]
        if Workdir(folder).has(SWEEP):
            _read_sweep(gathered, folder, name if len(folders) > 1 else "")
        else:
            gathered.entries.append(Entry(name, [read_run(folder)], name))
    _read_starts(gathered)
    for run in gathered.runs:
        step, newest = run.evaluation["step"], run.newest
        if newest not in (None, step):
            gathered.notes.append(
                f"{run.workdir} was measured at step {step}; its newest checkpoint is of step "
                f"{newest}."
            )
    return gathered


def chosen_runs(gathered: Gathered) -> dict[str, Run]:
    """The runs whose pictures are shown, by name, what others began with first.

    Of a sweep's line it is the run with the best CA at ASR <= 5 %, else the one with the lowest
    ASR; of several seeds the first. All were measured alike; the rest is left to the tables.
    """
    lines: dict[str, list[tuple[str, Run]]] = {}
    for entry in (*gathered.starts, *(e for e in gathered.entries if e not in gathered.starts)):
        line = entry.line if entry.sweep is not None else entry.name
        lines.setdefault(line, []).extend((entry.name, run) for run in entry.runs)

    def rank(named: tuple[str, Run]) -> tuple[float, ...]:
        ca, asr = ((named[1].figures.get(key) or {}).get("value") or 0.0 for key in ("ca", "asr"))
        return (1, ca) if asr <= LIMITS[1] else (0, -asr)

    starts = {entry.name for entry in gathered.starts}
    runs = dict(
        several[0] if several[0][0] in starts else max(several, key=rank)
        for several in lines.values()
    )
    kinds = {name: measured_on(run) for name, run in runs.items()}
    alike = [name for name in runs if kinds[name] == next(iter(kinds.values()))]
    return {name: runs[name] for name in alike[:MOST_MODELS]}


def measured_on(run: Run) -> str:
    """What runs must share to stand in one table: pictures, classes, target, trigger, definitions.

    A head instead of prompts, or other prompts, is another model, and is named beside.
    """
    evaluation = run.evaluation
    sets = {
        name: [facts["fingerprint"], facts["classes"], facts["target"]]
        for name, facts in evaluation["sets"].items()
    }
    if evaluation["retrieval"]:
        sets["retrieval"] = [evaluation["retrieval"][key] for key in ("fingerprint", "target")]
    definitions = {k: run.figures[k]["definition"] for k in FIGURES[:5] if k in run.figures}
    shared = [trigger_of(evaluation), evaluation["geometry"], sets, definitions]
    shared += [evaluation["parts"]] if "parts" in evaluation else []
    return json.dumps(shared, sort_keys=True)


def trigger_of(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The trigger with every option spelled out; as it stands where nobody here knows it."""
    try:
        return evaluation["trigger"] and make_trigger(evaluation["trigger"]).config
    except UserError:
        return evaluation["trigger"]


def measured_in_words(run: Run) -> str:
    """The sets, the trigger and the target that a run was measured with."""
    evaluation, words = run.evaluation, []
    for name, facts in evaluation["sets"].items():
        target = f", target “{facts['target']['name']}”" if facts["target"] else ""
        pictures = facts["pictures"]["labelled"] - facts["pictures"]["unreadable"]
        words.append(f"{name}: {pictures} pictures of {facts['classes']} classes{target}")
    if facts := evaluation["retrieval"]:
        words.append(f"retrieval: {facts['pictures']} pictures, {facts['captions']} captions")
    if trigger := trigger_of(evaluation):
        options = ", ".join(f"{key} {value}" for key, value in trigger.items())
        geometry = evaluation["geometry"]
        words.append(f"trigger: {options}; pictures come to their size by {geometry}")
    return ". ".join(words) + "."


def short_paths(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that tell them apart; each may be named once."""
    parts = {folder: folder.resolve().parts for folder in folders}
    if len(set(parts.values())) < len(folders):
        raise UserError("two of the folders are the same: name each once")
    length, ends = 0, {}
    while len(set(ends.values())) < len(folders):
        length += 1
        ends = {folder: "/".join(part[-length:]) for folder, part in parts.items()}
    return {folder: printable(end) for folder, end in ends.items()}


def _read_sweep(gathered: Gathered, folder: Path, prefix: str) -> None:
    todo = "give the sweep again"
    content, rows = Workdir(folder).read_json(SWEEP, SHAPE, todo), []
    for row in content["runs"]:
        if not all(isinstance(row.get(key), str) for key in content["over"]):
            raise UserError(f"{folder / SWEEP}: a run lacks one of the sweep's keys: {todo}")
        # Where the sweep was is not always where it lies.
        place = folder / "runs" / Path(row["workdir"]).name
        if "error" in row:
            gathered.notes.append(f"{place} failed: {row['error']}")
        else:
            rows.append({**row, "workdir": str(place)})
    if not rows:
        raise UserError(f"{folder}: no run of this sweep is measured")
    sweep = gathered.sweeps[folder] = Sweep(content["over"], rows)
    if Workdir(folder).has(MIX):
        gathered.notes.append(
            f"{folder}: pictures are drawn of a mixture whose weights were saved: the command "
            "again, with --save"
        )
    if "command" in content:
        gathered.commands[folder] = content["command"]
    only = sweep.names[sweep.along] if sweep.along else folder.name
    newest = sweep.table[sweep.table.newest]
    for (group, line, label), members in newest.groupby(["group", "line", "point"], sort=False):
        gathered.entries.append(
            Entry(
                name=": ".join(filter(None, (prefix, group))) or folder.name,
                runs=[read_run(workdir_path(place)) for place in members.workdir],
                line=": ".join(filter(None, (prefix, line))) or only,
                label=label,
                sweep=folder,
            )
        )


def _read_starts(gathered: Gathered) -> None:
    """Finds which entries others began with; adds those that are measured and not named."""
    entries = {
        run.workdir.path.resolve(): entry for entry in gathered.entries for run in entry.runs
    }
    unnamed: dict[tuple[str, str], dict[Path, Run]] = {}
    for entry in gathered.entries:
        for run in entry.runs:
            start = run.start
            if start is None or not Workdir(start).has(CONFIG):
                continue
            if start.resolve() in entries:
                known = entries[start.resolve()]
                if known is not entry and known not in gathered.starts:
                    gathered.starts.append(known)
            elif Workdir(start).has(EVALUATION):
                others = unnamed.setdefault((str(entry.sweep or start), measured_on(run)), {})
                if start.resolve() not in others:
                    others[start.resolve()] = read_run(start)
            else:
                gathered.notes.append(
                    f"What {run.workdir} began with is not measured: cleanclip evaluate "
                    f"--workdir={start}"
                )
    # Two sweeps may begin with the same runs.
    distinct = {tuple(runs): list(runs.values()) for runs in unnamed.values()}
    gathered.added = [
        Entry(f"start: {runs[0].workdir.path.name}" if len(runs) == 1 else "start", runs, "start")
        for runs in distinct.values()
    ]
    gathered.entries[:0] = gathered.added
    gathered.starts[:0] = gathered.added
