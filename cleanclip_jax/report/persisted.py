"""Whether a backdoor stays away, on a page: what `cleanclip persist` has found, as one table and
one picture, each figure beside that of a never poisoned model."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from cleanclip_jax.errors import printable
from cleanclip_jax.files import read_json
from cleanclip_jax.measure.persistence import area, reactivated, rebound, wakes_at
from cleanclip_jax.report.page import Block, Picture, Table
from cleanclip_jax.report.persist_picture import draw
from cleanclip_jax.report.persist_rows import (
    CLEANED,
    FLOOR,
    FOLDER,
    NAMES,
    PERSIST,
    SHAPE,
    Rows,
    courses,
    names_of,
    woken,
)
from cleanclip_jax.report.runs import Run
from cleanclip_jax.report.tables import spread

HEADING = "Does it stay away?"
WORDS = {
    "ASR before": "before anything of this is done.",
    "mean ASR": "path: of (1 - alpha) · model + alpha · poisoned, the mean over alpha, by "
    "trapezoids (the path is arXiv 2410.09838's, its mean is ours).",
    "wakes at alpha": "path: the first alpha with half of the poisoned model's ASR (ours).",
    "least CA": "path: where it is far below both ends, the two models lie apart, and its ASR says "
    "little.",
    "ASR after": "retune: finetuning with a few poisons among the pairs (arXiv 2410.09838); "
    "rebound: on the clean pairs alone. After the last epoch.",
    "rebound": "the highest ASR on the way less that before (ours).",
    "area": "the mean ASR on the way, by trapezoids (ours). No published definition of either was "
    "found.",
    "ASR, woken": "reactivation: with one perturbation of all pictures, sought for that "
    "(arXiv 2405.16134); without the trigger it is sought for pictures without it.",
    "reactivated": "ASR woken with the trigger, less the larger of that without the trigger and "
    "that of the never poisoned model (after arXiv 2405.16134's question; the difference is ours).",
    "BEC": "(S - S of the never poisoned) / (1 - S of the never poisoned), S being the layers' "
    "likeness to the poisoned model's on triggered pictures: 1 is as poisoned, 0 as never poisoned "
    "(after arXiv 2405.16134, whose scale moves with the defences at hand; the fixed ends are "
    "ours).",
    "z-score": "of cosines among triggered pictures against clean ones, by the deviation (after "
    "Carlini & Terzis).",
}


def persisted(runs: Mapping[str, Run]) -> tuple[list[Block], dict[str, bytes]]:
    """The part of the page about runs of which it was tried, and its pictures by name."""
    blocks: list[Block] = []
    files: dict[str, bytes] = {}
    for name, run in runs.items():
        path = run.workdir / FOLDER / PERSIST
        if not path.is_file():
            continue
        known = read_json(path, SHAPE, "give cleanclip persist again")
        some, png = shown_of(known)
        files |= {f"persist{len(files) or ''}.png": png} if png else {}
        blocks += [f"{name}: {known['command']}", *some]
    return blocks, files


def shown_of(known: Mapping[str, Any]) -> tuple[list[Block], bytes | None]:
    """The table, what its words mean, and the picture, of what persist.json holds."""
    rows = [row for row in known["rows"] if row["figures"]]
    lines = table_rows(rows)
    if not lines:
        return ["Nothing is measured yet."], None
    several = len({row["seed"] for row in rows if "seed" in row}) > 1
    caption = "Shares in percent"
    caption += "; means over seeds, with 95 % intervals of them" if several else ""
    columns = ["protocol", "figure", *NAMES.values(), "difference"]
    table = Table(f"{caption}. Differences are of means.", columns, lines)
    shown = {k: v for k, v in WORDS.items() if any(line[1].startswith(k) for line in lines)}
    png = draw(rows)
    blocks: list[Block] = [table]
    if png is not None:
        blocks.append(Picture(png, alt_of(lines), "Dashed: CA. Bars and lines are means."))
    if not any(row["model"] == FLOOR for row in rows):
        blocks.append(
            "No never poisoned model was named (--floor): what any model would show is not parted "
            "from the backdoor."
        )
    return [*blocks, shown], png


def as_text(known: Mapping[str, Any]) -> str:
    """The table for a terminal, in Markdown."""
    rows = table_rows([row for row in known["rows"] if row["figures"]])
    lines = [["protocol", "figure", *NAMES.values(), "difference"], *rows]
    texts = [
        f"| {' | '.join(printable(c).replace('|', chr(92) + '|') for c in r)} |" for r in lines
    ]
    return "\n".join([texts[0], "|---" * 5 + "|", *texts[1:]])


def table_rows(rows: Rows) -> list[list[str]]:
    """Protocol, figure, the cleaned model's, the never poisoned one's, and their difference."""
    parts = [k for k in (names_of(rows)) if k.startswith("asr")] or ["asr"]
    lines: list[list[str]] = []
    for asr in parts:
        of = asr.removeprefix("asr")
        lines += _before(rows, asr, of) + _path(rows, asr, of)
        lines += _tuned(rows, asr, of) + _woken(rows, asr, of) + _presence(rows, of)
    return lines


def _line(
    protocol: str, figure: str, values: Mapping[str, Sequence[float | None]], scale: int = 100
) -> list[str]:
    """A row of the table from the values of each model's seeds."""
    cells, means = [], []
    for model in NAMES:
        known = [value for value in values.get(model, ()) if value is not None]
        means.append(mean(known) if known else None)
        if not known:
            cells.append("never" if values.get(model) and scale == 1 else "—")
        elif scale == 100:
            cells.append(str(spread(known)))
        else:
            cells.append(f"{means[-1]:.2f}")
    both = None not in means
    digits = 1 if scale == 100 else 2
    difference = f"{scale * (means[0] - means[1]):+.{digits}f}" if both else "—"
    return [protocol, figure, *cells, difference]


def _before(rows: Rows, asr: str, of: str) -> list[list[str]]:
    lines = []
    for figure, words in ((asr, f"ASR before{of and f' ({of[1:]})'}"), ("ca", "CA before")):
        values = {
            row["model"]: [row["figures"][figure]["value"]]
            for row in rows
            if row["protocol"] == "before" and figure in row["figures"]
        }
        lines += [_line("—", words, values)] if values else []
    return lines


def _path(rows: Rows, asr: str, of: str) -> list[list[str]]:
    along, useful = courses(rows, "path", asr), courses(rows, "path", "ca")
    if not along:
        return []
    name = f"path{of}"
    return [
        _line(name, "mean ASR", {key[0]: [area(course)] for key, course in along.items()}),
        _line(name, "wakes at alpha", {k[0]: [wakes_at(c)] for k, c in along.items()}, 1),
        _line(name, "least CA", {key[0]: [min(c.values())] for key, c in useful.items()}),
    ]


def _tuned(rows: Rows, asr: str, of: str) -> list[list[str]]:
    lines = []
    for protocol in ("retune", "rebound"):
        ways, useful = courses(rows, protocol, asr), courses(rows, protocol, "ca")
        for rate in sorted({key[1] for key in ways}):
            name = f"{protocol}{of}, {rate:g}"
            some, ca = ([c for c in one.items() if c[0][1] == rate] for one in (ways, useful))
            figures = {
                "ASR after": [(key[0], course[max(course)]) for key, course in some],
                "rebound": [(key[0], rebound(course)) for key, course in some],
                "area": [(key[0], area(course)) for key, course in some],
                "CA after": [(key[0], course[max(course)]) for key, course in ca],
            }
            lines += [_line(name, words, _by_model(each)) for words, each in figures.items()]
    return lines


def _by_model(pairs: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    return {model: [v for name, v in pairs if name == model] for model in dict(pairs)}


def _woken(rows: Rows, asr: str, of: str) -> list[list[str]]:
    lines, name = [], f"reactivation{of}"
    for at in ("trigger", "no trigger"):
        values = {model: list(woken(rows, asr, model, at).values()) for model in NAMES}
        lines += [_line(name, f"ASR, woken, {at}", values)] if any(values.values()) else []
    hit, plain = (woken(rows, asr, CLEANED, at) for at in ("trigger", "no trigger"))
    floor = woken(rows, asr, FLOOR, "trigger")
    seeds = [seed for seed in hit if seed in plain and (not floor or seed in floor)]
    if seeds:
        above = [reactivated(hit[s], plain[s], floor.get(s)) for s in seeds]
        text = f"{100 * mean(above):+.1f}"
        lines.append([name, "reactivated", text, "—", "—"])
    return lines


def _presence(rows: Rows, of: str) -> list[list[str]]:
    lines = []
    for figure, words in ((f"bec{of}", "BEC"), ("zscore", "z-score")):
        values = {
            row["model"]: [row["figures"][figure]["value"]]
            for row in rows
            if row["protocol"] == "presence" and figure in row["figures"]
        }
        lines += [_line(f"presence{of}", words, values, 1)] if values else []
    return lines


def alt_of(lines: Sequence[Sequence[str]]) -> str:
    """The picture in words: attack success of both models, by protocol."""
    kinds = ("mean ASR", "ASR after", "ASR, woken")
    words = (
        f"{line[0]}, {line[1]}: cleaned {line[2]}, never poisoned {line[3]}."
        for line in lines
        if line[1].startswith(kinds)
    )
    return "Attack success in percent, by protocol. " + " ".join(words)
