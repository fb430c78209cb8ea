"""The whole report: what was measured, pictures, what was run and how, written as one page."""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from cleanclip_jax.files import write_whole
from cleanclip_jax.report import pictures as drawn
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
        Section("Commands", [Code("\n".join(commands(gathered, command)))]),
        Section("The report's environment", [environment(bool(models))]),
        Section("Every figure", every_figure(shown, len(runs))),
    ]
    if gathered.notes:
        sections.insert(0, Section("Note", ["\n\n".join(dict.fromkeys(gathered.notes))]))
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
    blocks: list[Block] = [Table("The runs; steps are those that were measured.", columns, rows)]
    keys = {entry: _keys_of(entry) for entry in gathered.entries}
    first, *others = keys.values()
    shared = {k: v for k, v in first.items() if others and all(o.get(k) == v for o in others)}
    if others:
        blocks += ["In all configs, where they are not the default:", _listing(shared)]
    for entry, values in keys.items():
        rest = {key: value for key, value in values.items() if key not in shared}
        blocks.append(f"{entry.name}: {', '.join(str(run.workdir) for run in entry.runs)}")
        blocks += [_listing(rest)] if rest else []
    return blocks


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


def _listing(keys: Mapping[str, str]) -> Code:
    return Code("\n".join(f"{key} = {value}" for key, value in keys.items()))


def commands(gathered: Gathered, command: str) -> Sequence[str]:
    """What makes the runs and the page again; runs of before starts.jsonl have their config."""
    lines = list(gathered.commands)
    for run in (run for entry in gathered.entries if entry.sweep is None for run in entry.runs):
        lines += [start["command"] for start in run.workdir.lines(STARTS)]
        lines.append(f"cleanclip evaluate --workdir={shlex.quote(str(run.workdir))}")
    return [*dict.fromkeys(lines), command]


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
