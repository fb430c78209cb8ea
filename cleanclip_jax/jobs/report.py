"""`cleanclip report`: runs on one page: tables, curves, pictures; several side by side.

A WORKDIR is a measured run, or a sweep's folder. The page is one file that needs nothing else;
its figures lie beside it as PNGs. What a run began with is shown beside it where it is measured.
"""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import jax

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.compile_cache import keep_compiled
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines, write_whole
from cleanclip_jax.report import pictures as shown
from cleanclip_jax.report.page import Block, Code, Facts, Section, Table, write_page
from cleanclip_jax.report.results import Pictures, every_figure, results, training
from cleanclip_jax.report.runs import Entry, Gathered, Run, gather
from cleanclip_jax.run.launches import FILE as STARTS
from cleanclip_jax.workdir import workdir_path

PAGE = "report.html"
LIBRARIES = ("cleanclip-jax", "jax", "flax", "optax", "grain", "numpy")


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip report", description=__doc__)
    parser.add_argument(
        "workdirs", nargs="+", type=workdir_path, metavar="WORKDIR", help="runs, or sweeps"
    )
    parser.add_argument(
        "--output",
        type=workdir_path,
        help="the page's folder; default: WORKDIR/report, of several ./report",
    )
    parser.add_argument("--title", help="of the page")
    parser.add_argument(
        "--pictures", type=int, default=6, help="of those that the trigger changes most (6)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only what lies in the workdirs: no model is loaded, nothing projected",
    )
    asked, overrides = parse(parser, argv)
    keep_compiled()
    if overrides:
        raise UserError(f"--config.{next(iter(overrides))}: a report trains and measures nothing")
    if asked.pictures < 1:
        raise UserError(f"--pictures={asked.pictures}: it takes a whole number, 1 or more")
    for folder in asked.workdirs:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name runs' workdirs or sweeps' folders")
    alone = asked.workdirs[0] / "report" if len(asked.workdirs) == 1 else Path("report")
    output = asked.output or alone
    taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if taken and not (output / PAGE).is_file():
        raise UserError(f"{output} is not empty and holds no report: name a new folder")
    gathered = gather(asked.workdirs)
    command = shlex.join(["cleanclip", "report", *argv])
    title = asked.title or title_of(gathered)
    write_report(
        output,
        gathered,
        title,
        intro_of(gathered),
        command,
        pictures=0 if asked.quick else asked.pictures,
    )
    print(f"written: {output / PAGE}")
    return 0


def write_report(
    output: Path,
    gathered: Gathered,
    title: str,
    intro: str,
    command: str,
    pictures: int,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Writes OUTPUT/report.html and the PNGs that it shows.

    Args:
      pictures: how many of the most changed ones; 0: no model is loaded.
      facts: more to say of what was run.
    """
    sections, files = results(gathered)
    runs = shown.chosen_runs(gathered)
    loaded = shown.load_models(runs) if pictures else {}
    every = [run for entry in gathered.entries for run in entry.runs]
    first = next(iter(runs.values()), None)
    attacked = first is not None and bool(first.found["sets"]) and bool(first.found["trigger"])
    found: dict[str, shown.Found] = {"The poisons": shown.poisons([*runs.values(), *every])}
    if loaded and attacked:
        found["What the trigger changes most"] = shown.changed(loaded, pictures)
    found["Embeddings"] = shown.projections(loaded if attacked else {}, runs)
    shown_all = {**runs, **_others(gathered, runs)}
    found["Training"] = training(
        {name: read_lines(run.folder / "metrics.jsonl") for name, run in shown_all.items()}
    )
    for heading, (blocks, own) in found.items():
        if blocks:
            sections.append(Section(heading, blocks))
        files |= own
    sections.append(Section("What was run", [*what_was_run(gathered), *_more(facts)]))
    sections.append(Section("Commands", [Code("\n".join(commands(gathered, command)))]))
    sections.append(Section("The report's environment", [Facts(environment())]))
    sections.append(Section("Every figure", every_figure(shown_all, len(every))))
    if gathered.notes:
        sections.insert(0, Section("Note", ["\n\n".join(dict.fromkeys(gathered.notes))]))
    save(output, title, intro, sections, files)


def save(
    output: Path, title: str, intro: str, sections: Sequence[Section], files: Pictures
) -> None:
    """Writes the figures, then the page."""
    for name, png in files.items():
        write_whole(output / name, png)
    write_page(output / PAGE, title, intro, sections)


def title_of(gathered: Gathered) -> str:
    """The page's title: the names of what is compared."""
    asked = [e for e in gathered.entries if e not in gathered.added]
    names = list(dict.fromkeys(e.sweep.name if e.sweep else e.name for e in asked))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}: what was measured"


def intro_of(gathered: Gathered) -> str:
    """The page in a few sentences: the first and the best."""
    sentences = []
    for name, run in shown.chosen_runs(gathered).items():
        figures = run.found["figures"]
        values = [
            f"{words} {100 * figures[key]['value']:.1f} %"
            for key, words in (("ca", "clean accuracy"), ("asr", "attack success"))
            if key in figures and figures[key]["value"] is not None
        ]
        if values:
            sentences.append(f"{name} ({run.method}): {', '.join(values)}.")
    return " ".join(sentences)


def what_was_run(gathered: Gathered) -> list[Block]:
    """A table of the runs, and the keys of each config that are not the defaults."""
    rows = [
        [
            entry.name,
            run.method,
            str(run.found["step"]),
            str(run.config.train.batch_size),
            f"{run.config.optimizer.learning_rate:g}",
            str(run.config.seed),
            trained_on(run),
        ]
        for entry in gathered.entries
        for run in entry.runs
    ]
    columns = ["model", "training", "steps", "batch", "rate", "seed", "trained on"]
    table = Table("The runs; steps are those that were measured.", columns, rows)
    keys = {entry.name: _keys_of(entry) for entry in gathered.entries}
    first = next(iter(keys.values()))
    shared = {k: v for k, v in first.items() if all(own.get(k) == v for own in keys.values())}
    listings: list[Block] = []
    if len(keys) > 1:
        listings += ["In all configs, where they are not the default:", _listing(shared)]
    for entry in gathered.entries:
        folders = ", ".join(str(run.folder) for run in entry.runs)
        own = {k: v for k, v in keys[entry.name].items() if len(keys) == 1 or k not in shared}
        listings += [f"{entry.name}: {folders}", *([_listing(own)] if own else [])]
    return [table, *listings]


def trained_on(run: Run) -> str:
    """The devices of a run's last start, as '8 TPU v4', or '—'."""
    starts = read_lines(run.folder / STARTS)
    return f"{starts[-1]['devices']} {starts[-1]['device']}" if starts else "—"


def _keys_of(entry: Entry) -> dict[str, str]:
    """The keys that are not the defaults; several values where the seeds' runs differ."""
    found = [run.changed_keys() for run in entry.runs]
    keys = dict.fromkeys(key for own in found for key in own)
    return {key: ", ".join(dict.fromkeys(repr(own.get(key)) for own in found)) for key in keys}


def _listing(keys: Mapping[str, str]) -> Code:
    return Code("\n".join(f"{key} = {value}" for key, value in keys.items()))


def commands(gathered: Gathered, command: str) -> list[str]:
    """What makes the runs and the page again; runs of before starts.jsonl have their config."""
    lines = [sweep["command"] for sweep in gathered.sweeps.values() if "command" in sweep]
    for run in (run for entry in gathered.entries if entry.sweep is None for run in entry.runs):
        lines += [start["command"] for start in read_lines(run.folder / STARTS)]
        lines.append(f"cleanclip evaluate --workdir={shlex.quote(str(run.folder))}")
    return [*dict.fromkeys(lines), command]


def environment() -> dict[str, str]:
    """The machine and the libraries of this process."""
    devices = jax.devices()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "JAX runs on": f"{len(devices)} device(s): {devices[0].device_kind}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _others(gathered: Gathered, runs: Mapping[str, Run]) -> dict[str, Run]:
    """The runs that were named themselves and are not among those shown."""
    alone = {entry.name: entry.runs[0] for entry in gathered.entries if entry.sweep is None}
    return {name: run for name, run in alone.items() if name not in runs}


def _more(facts: Mapping[str, str] | None) -> list[Block]:
    return [Facts(facts)] if facts else []
