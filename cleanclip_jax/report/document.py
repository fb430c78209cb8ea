"""The whole report: what was measured, pictures, what was run and how, written as one page."""

import math
import os
import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from cleanclip_jax.config import flatten
from cleanclip_jax.files import write_whole
from cleanclip_jax.report import pictures as drawn
from cleanclip_jax.report.detected import detected
from cleanclip_jax.report.evaluation import differing
from cleanclip_jax.report.page import Block, Code, Section, Table, write_page
from cleanclip_jax.report.persisted import HEADING, persisted
from cleanclip_jax.report.results import every_figure, results, training
from cleanclip_jax.report.runs import Gathered, Run, chosen_runs
from cleanclip_jax.workdir import METRICS, STARTS

PAGE = "report.html"
# Keys that have a column of their own among the runs.
COLUMNS = {"train.batch_size": "batch", "optimizer.learning_rate": "rate", "seed": "seed"}
LIBRARIES = ("cleanclip-jax", "jax", "flax", "optax", "grain", "numpy")


def write_report(
    output: Path,
    gathered: Gathered,
    command: str,
    pictures: int,
    title: str | None = None,
    intro: str | None = None,
    facts: Mapping[str, str] | None = None,
    opening: Sequence[Section] = (),
) -> None:
    """Writes OUTPUT/report.html and the PNGs that it shows.

    Args:
      command: what makes the page.
      pictures: how many of those that the trigger shifts most; 0: no model is loaded, and JAX
        takes no device.
      title, intro: in place of those that name the runs and their first figures.
      facts: more of what was run, by name.
      opening: sections that stand before all others.
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
    parts["Poisoned pairs, as far as detectors see them"] = detected(shown)
    parts[HEADING] = persisted(shown)
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
    sections = [*opening, *sections]
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
    sentences = ""
    for name, run in chosen.items():
        values = [
            f"{words} {100 * figure['value']:.1f} %"
            for key, words in (("ca", "clean accuracy"), ("asr", "attack success"))
            if (figure := run.figures.get(key)) and figure["value"] is not None
        ]
        sentences += f"{name} ({run.method}): {', '.join(values)}. " if values else ""
    return sentences.rstrip()


def what_was_run(gathered: Gathered) -> list[Block]:
    """The keys that are not the defaults, as most runs have them, and a table of the runs."""
    runs = [(entry.name, run) for entry in gathered.entries for run in entry.runs]
    settings = [{key: repr(value) for key, value in run.settings().items()} for _, run in runs]
    usual = {
        key: Counter(values.get(key) for values in settings).most_common(1)[0][0]
        for key in sorted({key for values in settings for key in values} - set(COLUMNS))
    }
    rows = []
    for (name, run), values in zip(runs, settings, strict=True):
        others = [
            f"{key} = {values[key]}" if key in values else f"{key} as by default"
            for key, value in usual.items()
            if values.get(key) != value
        ]
        columns = [f"{flatten(run.config)[key]:g}" for key in COLUMNS]
        starts = run.workdir.lines(STARTS)
        device = f"{starts[-1]['devices']} {starts[-1]['device']}" if starts else "—"
        rows.append([name, run.method, str(run.evaluation["step"]), *columns, device])
        rows[-1] += [str(run.workdir), "; ".join(others) or "—"]
    columns = ["model", "training", "steps", *COLUMNS.values(), "trained on", "workdir"]
    caption = "The runs; steps are those that were measured."
    return [
        Table(caption, [*columns, "other keys"], rows),
        f"Keys that are not the default{', as most runs have them' if len(runs) > 1 else ''}:",
        Code([f"{key} = {value}" for key, value in usual.items() if value is not None]),
    ]


def commands(gathered: Gathered, command: str) -> list[str]:
    """What makes the runs, in the order in which it was run, what measures them, and the page."""
    trained = [(math.inf, line) for line in gathered.commands.values()]
    measured = []
    for entry in gathered.entries:
        for row in (row for run in entry.runs for row in run.workdir.lines(STARTS)):
            trained.append((row["time"], gathered.commands.get(entry.sweep) or row["command"]))
        measured += map(measured_by, entry.runs if entry.sweep is None else ())
    lines = [line for _, line in sorted(trained, key=lambda pair: pair[0])]
    return [*dict.fromkeys([*lines, *measured]), command]


def measured_by(run: Run) -> str:
    """The command that measures a run as it was, with the keys that its config has otherwise."""
    other = differing(run.evaluation["evaluation"], run.config.evaluation.to_dict())
    flags = [f"--config.evaluation.{key}={value}" for key, value in other.items()]
    return shlex.join(["cleanclip", "evaluate", f"--workdir={run.workdir}", *flags])


def environment(devices: bool) -> dict[str, str]:
    """The machine and the libraries of this process, with JAX's devices where it uses them."""
    facts = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    if devices:
        import jax

        kinds = jax.devices()
        facts["JAX runs on"] = f"{len(kinds)} device(s): {kinds[0].device_kind}"
    libraries = {name: version(name) for name in LIBRARIES}
    return facts | {"python": platform.python_version(), **libraries}
