"""The whole report: what was measured, pictures, what was run and how, written as one page."""

import os
import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from cleanclip_jax.files import write_whole
from cleanclip_jax.report import pictures as drawn
from cleanclip_jax.report.evaluation import differing
from cleanclip_jax.report.page import Block, Code, Section, Table, write_page
from cleanclip_jax.report.results import every_figure, results, training
from cleanclip_jax.report.runs import Entry, Gathered, Run, chosen_runs
from cleanclip_jax.workdir import METRICS, STARTS

PAGE = "report.html"
LIBRARIES = ("cleanclip-jax", "jax", "flax", "optax", "grain", "numpy")


def write_report(
    output: Path,
    gathered: Gathered,
    command: str,
    pictures: int,
    title: str | None = None,
    intro: str | None = None,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Writes OUTPUT/report.html and the PNGs that it shows.

    Args:
      command: what makes the page.
      pictures: how many of those that the trigger shifts most; 0: no model is loaded, and JAX
        takes no device.
      title, intro: in place of those that name the runs and their first figures.
      facts: more of what was run, by name.
    """
    sections, files = results(gathered)
    chosen, runs = chosen_runs(gathered), list(gathered.runs)
    models = drawn.load_models(chosen) if pictures else {}
    first = next(iter(chosen.values()), None)
    attacked = first is not None and first.evaluation["sets"] and first.evaluation["trigger"]
    # Those that were named themselves and are not among the chosen.
    alone = {entry.name: entry.runs[0] for entry in gathered.entries if entry.sweep is None}
    shown = chosen | {name: run for name, run in alone.items() if name not in chosen}
    parts = {"The poisons": drawn.poisons([*chosen.values(), *runs])}
    if models and attacked:
        parts["What the trigger changes most"] = drawn.shifts(models, pictures)
    parts["Embeddings"] = drawn.projections(models if attacked else {}, chosen)
    parts["Training"] = training({name: run.workdir.lines(METRICS) for name, run in shown.items()})
    for heading, (blocks, pngs) in parts.items():
        sections += [Section(heading, blocks)] if blocks else []
        files |= pngs
    sections += [
        Section("What was run", [*what_was_run(gathered), *([facts] if facts else [])]),
        Section("Commands", [Code(commands(gathered, command))]),
        Section("The report's environment", [environment(bool(models))]),
        Section("Every figure", every_figure(shown, len(runs))),
    ]
    if gathered.notes:
        sections.insert(0, Section("Note", list(dict.fromkeys(gathered.notes))))
    for name, png in files.items():
        write_whole(output / name, png)
    title, intro = title or title_of(gathered), intro or intro_of(chosen)
    write_page(output / PAGE, title, intro, sections)


def title_of(gathered: Gathered) -> str:
    """The page's title: the names of what is compared."""
    entries = [entry for entry in gathered.entries if entry not in gathered.added]
    names = list(dict.fromkeys(e.sweep.name if e.sweep else e.name for e in entries))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}: what was measured"


def intro_of(chosen: Mapping[str, Run]) -> str:
    """The page in a few sentences: the first and the best."""
    sentences = []
    for name, run in chosen.items():
        values = [
            f"{words} {100 * run.figures[key]['value']:.1f} %"
            for key, words in (("ca", "clean accuracy"), ("asr", "attack success"))
            if key in run.figures and run.figures[key]["value"] is not None
        ]
        if values:
            sentences.append(f"{name} ({run.method}): {', '.join(values)}.")
    return " ".join(sentences)


def what_was_run(gathered: Gathered) -> list[Block]:
    """A table of the runs, and the keys of each config that are not the defaults."""
    rows = [
        [
            *(entry.name, run.method, str(run.evaluation["step"])),
            *(str(run.config.train.batch_size), f"{run.config.optimizer.learning_rate:g}"),
            *(str(run.config.seed), trained_on(run)),
        ]
        for entry in gathered.entries
        for run in entry.runs
    ]
    columns = ["model", "training", "steps", "batch", "rate", "seed", "trained on"]
    caption = "The runs; steps are those that were measured."
    return [Table(caption, columns, rows), *configs(gathered.entries)]


def configs(entries: Sequence[Entry]) -> list[Block]:
    """The keys that are not the defaults: as most entries have them, and what is otherwise."""
    keys = {entry: _keys_of(entry) for entry in entries}
    names = sorted({name for values in keys.values() for name in values})
    usual = {
        name: Counter(values.get(name) for values in keys.values()).most_common(1)[0][0]
        for name in names
    }
    listing = Code([f"{name} = {value}" for name, value in usual.items() if value is not None])
    rows = []
    for entry, values in keys.items():
        others = [
            f"{name} = {values[name]}" if name in values else f"{name} as by default"
            for name in names
            if values.get(name) != usual[name]
        ]
        places = ", ".join(str(run.workdir) for run in entry.runs)
        rows.append([entry.name, places, "; ".join(others) or "—"])
    if len(entries) == 1:
        return ["Keys that are not the default:", listing]
    table = Table(
        "Where the runs lie, and their other keys.", ["model", "workdir", "other keys"], rows
    )
    return ["Keys that are not the default, as most of the runs have them:", listing, table]


def trained_on(run: Run) -> str:
    """The devices of a run's last start, as '8 TPU v4', or '—'."""
    starts = run.workdir.lines(STARTS)
    return f"{starts[-1]['devices']} {starts[-1]['device']}" if starts else "—"


def _keys_of(entry: Entry) -> dict[str, str]:
    """The keys that are not the defaults; several values where the seeds' runs differ."""
    several = [run.settings() for run in entry.runs]
    keys = dict.fromkeys(key for settings in several for key in settings)
    return {
        key: ", ".join(dict.fromkeys(repr(settings.get(key)) for settings in several))
        for key in keys
    }


def commands(gathered: Gathered, command: str) -> list[str]:
    """What makes the runs, in the order in which it was run, what measures them, and the page."""
    trained = [(_begun(gathered, folder), line) for folder, line in gathered.commands.items()]
    measured = []
    for run in (run for entry in gathered.entries if entry.sweep is None for run in entry.runs):
        trained += [(row["time"], row["command"]) for row in run.workdir.lines(STARTS)]
        measured.append(measured_by(run))
    lines = [line for _, line in sorted(trained, key=lambda pair: pair[0])]
    return [*dict.fromkeys([*lines, *measured]), command]


def _begun(gathered: Gathered, folder: Path) -> float:
    """When the first run of a sweep was begun."""
    runs = [run for entry in gathered.entries if entry.sweep == folder for run in entry.runs]
    return min((row["time"] for run in runs for row in run.workdir.lines(STARTS)), default=0.0)


def measured_by(run: Run) -> str:
    """The command that measured a run; where its evaluation names none, the like of it."""
    if "command" in run.evaluation:
        return run.evaluation["command"]
    other = differing(run.evaluation["evaluation"], run.config.evaluation.to_dict())
    flags = [f"--config.evaluation.{key}={value}" for key, value in other.items()]
    return shlex.join(["cleanclip", "evaluate", f"--workdir={run.workdir}", *flags])


def environment(devices: bool) -> dict[str, str]:
    """The machine and the libraries of this process, with JAX's devices where it uses them."""
    used = {}
    if devices:
        import jax

        kinds = jax.devices()
        used["JAX runs on"] = f"{len(kinds)} device(s): {kinds[0].device_kind}"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **used,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
