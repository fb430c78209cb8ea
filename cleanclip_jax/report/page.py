"""A report as one HTML file that needs nothing else: no scripts, no network, pictures inside.

It reads on a phone, in print, in light and dark, and aloud: tables have captions and header cells,
pictures have alternative texts. Every text is escaped; a content policy forbids what was missed.
"""

import base64
import html
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cleanclip_jax.files import write_whole

PNG = b"\x89PNG\r\n\x1a\n"
# 96.7, -3, 1,400, 5e-4, 12 %, 200 s: what is set flush right under one another.
NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?( ?(%|s|min|h))?|-|—|n/a|", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """Names and values, as a run's settings."""

    items: Mapping[str, str]


@dataclass(frozen=True)
class Code:
    """A command or a listing, kept as it is."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming the row; columns of numbers are set flush right.

    A cell's further lines are set small below its first: a number's interval.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG at two pixels to the CSS pixel; `alt` says what it shows to who cannot see it."""

    png: bytes
    alt: str
    caption: str = ""


Block = str | Facts | Code | Table | Picture  # str: a paragraph


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def write_page(path: Path, title: str, intro: str, sections: Sequence[Section]) -> None:
    """Writes the report to `path`, whole or not at all."""
    write_whole(path, page(title, intro, sections))


def page(title: str, intro: str, sections: Sequence[Section]) -> str:
    """The report as HTML. Text is plain: no markup; a blank line parts paragraphs."""
    style = resources.files("cleanclip_jax.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(_section(number, section) for number, section in enumerate(sections, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{html.escape(title)}</h1>
{_paragraphs(intro)}
</header>
{body}
</main>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    blocks = "\n".join(_block(block, f"s{number}-{i}") for i, block in enumerate(section.blocks, 1))
    return (
        f'<section aria-labelledby="s{number}">\n'
        f'<h2 id="s{number}">{html.escape(section.title)}</h2>\n{blocks}\n</section>'
    )


def _block(block: Block, name: str) -> str:
    match block:
        case str():
            return _paragraphs(block)
        case Facts(items):
            pairs = (_tag("div", _tag("dt", _e(k)) + _tag("dd", _e(v))) for k, v in items.items())
            return _tag("dl", "".join(pairs))
        case Code(text):
            return f'<pre tabindex="0"><code>{_e(text)}</code></pre>'
        case Table():
            return _table(block, name)
        case Picture():
            return _picture(block)


MANY = 6  # columns that the page's width holds; with more it takes the window's


def _table(table: Table, name: str) -> str:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"table {table.caption!r}: {len(row)} cells for {table.columns}")
    numbers = [
        column > 0 and all(NUMBER.fullmatch(row[column].partition("\n")[0]) for row in table.rows)
        for column in range(len(table.columns))
    ]
    right = [' class="n"' if number else "" for number in numbers]
    head = (
        f'<th scope="col"{side}>{_e(column)}</th>'
        for side, column in zip(right, table.columns, strict=True)
    )
    rows = (
        f'<tr><th scope="row">{_cell(first)}</th>'
        + "".join(f"<td{s}>{_cell(cell)}</td>" for s, cell in zip(right[1:], cells, strict=True))
        + "</tr>"
        for first, *cells in table.rows
    )
    # A table wider than a phone scrolls by itself, by keyboard too.
    kind = "wide many" if len(table.columns) > MANY else "wide"
    return (
        f'<div class="{kind}" role="region" aria-labelledby="{name}" tabindex="0">\n<table>'
        f'<caption id="{name}"><span>{_e(table.caption)}</span></caption>\n'
        f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n{_lines(rows)}\n"
        "</tbody></table>\n</div>"
    )


def _cell(text: str) -> str:
    first, *others = text.split("\n")
    return _e(first) + "".join(f" <small>{_e(line)}</small>" for line in others)


def _picture(picture: Picture) -> str:
    if not picture.png.startswith(PNG):
        raise ValueError(f"picture {picture.alt!r}: not a PNG")
    if not picture.alt.strip():
        raise ValueError("a picture needs an alternative text")
    width, height = struct.unpack(">II", picture.png[16:24])
    data = base64.b64encode(picture.png).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{data}" alt="{_e(picture.alt)}"'
        f' width="{width // 2}" height="{height // 2}">'
    )
    caption = _tag("figcaption", _e(picture.caption)) if picture.caption else ""
    return f"<figure>\n{image}\n{caption}\n</figure>"


def _paragraphs(text: str) -> str:
    return _lines(
        _tag("p", _e(part.strip())) for part in re.split(r"\n\s*\n", text) if part.strip()
    )


def _tag(name: str, inside: str) -> str:
    return f"<{name}>{inside}</{name}>"


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)


_e = html.escape
