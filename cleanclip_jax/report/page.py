"""A report as one HTML file that needs nothing else: no network, pictures inside, and no script
but for one that sorts tables, where a page has it.

It reads on a phone, in print, in light and dark, and aloud: tables have captions and header cells,
pictures have alternative texts. Every text is escaped; a content policy forbids what was missed.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cleanclip_jax.errors import printable
from cleanclip_jax.files import write_whole

PNG = b"\x89PNG\r\n\x1a\n"
# 96.7, -3, 1,400, 5e-4, 12 %, 200 s: what is set flush right under one another.
NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?( ?(%|s|min|h))?|-|—|n/a|", re.IGNORECASE)
MANY = 6  # columns that the page's width holds; with more it takes the window's


class Link(str):
    """A cell's line that leads to the place `to` of its page."""

    to: str

    def __new__(cls, text: str, to: str) -> "Link":
        made = super().__new__(cls, printable(text))
        made.to = to
        return made


Cell = str | Sequence[str]


@dataclass(frozen=True)
class Code:
    """Commands or a listing, a line each, shown as they are."""

    kind: ClassVar = "code"
    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming the row; columns of numbers are set flush right.

    A cell's further lines are set small below its first: a number's interval.
    """

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False

    @property
    def cells(self) -> list[list[Sequence[str]]]:
        """The rows, with each cell as its lines."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: {len(row)} cells for {self.columns}")
        return [[(c,) if isinstance(c, str) else c or ("",) for c in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are of numbers."""
        columns = zip(*self.cells, strict=True) if self.rows else [() for _ in self.columns]
        numbers = [all(NUMBER.fullmatch(lines[0]) for lines in column) for column in columns]
        return [False, *numbers[1:]]


@dataclass(frozen=True)
class Picture:
    """A PNG at two pixels to the CSS pixel; `alt` says what it shows to who cannot see it."""

    kind: ClassVar = "picture"
    png: bytes
    alt: str
    caption: str = ""

    @property
    def data(self) -> str:
        """The file, as a page holds it."""
        if not self.png.startswith(PNG):
            raise ValueError(f"picture {self.alt!r}: not a PNG")
        if not self.alt.strip():
            raise ValueError("a picture needs an alternative text")
        return base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width // 2, height // 2


@dataclass(frozen=True)
class Curve:
    """Lines of points (ASR, CA, label), shares from 0 to 1: drawn by the page itself."""

    kind: ClassVar = "curve"
    caption: str
    lines: Mapping[str, Sequence[tuple[float, float, str]]]

    @property
    def top(self) -> int:
        """The upper end of the CA that is drawn, in percent: of 20, 40, … the first that holds."""
        highest = max(100 * y for points in self.lines.values() for _, y, _ in points)
        return max(20, 20 * -int(-highest // 20))


@dataclass(frozen=True)
class Details:
    """Blocks that a click on their title shows; `name` is where a link leads."""

    kind: ClassVar = "details"
    name: str
    title: str
    blocks: "Sequence[Block]"


# A text is a paragraph; names with values stand side by side.
Block = str | Mapping[str, str] | Code | Table | Picture | Curve | Details


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def write_page(
    path: Path, title: str, intro: str, sections: Sequence[Section], sortable: bool = False
) -> None:
    """Writes the report to `path`, whole or not at all."""
    write_whole(path, page(title, intro, sections, sortable))


def page(title: str, intro: str, sections: Sequence[Section], sortable: bool = False) -> str:
    """The report as HTML. Text is plain, and in one line: no markup, no control characters.

    Args:
      sortable: the page has the script that sorts its tables, and by its policy no other.
    """
    script = (files("cleanclip_jax.report") / "sort.js").read_text() if sortable else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("cleanclip_jax", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        # What a macro has made is markup, and all else comes from outside.
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("page.html")
    facts = {"title": title, "intro": intro, "sections": sections, "many": MANY}
    return template.render(**facts, script=Markup(script), digest=digest).lstrip()
