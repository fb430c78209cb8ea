"""A report as one HTML file that needs nothing else: no scripts, no network, pictures inside.

It reads on a phone, in print, in light and dark, and aloud: tables have captions and header cells,
pictures have alternative texts. Every text is escaped; a content policy forbids what was missed.
"""

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from cleanclip_jax.files import write_whole

PNG = b"\x89PNG\r\n\x1a\n"
# 96.7, -3, 1,400, 5e-4, 12 %, 200 s: what is set flush right under one another.
NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?( ?(%|s|min|h))?|-|—|n/a|", re.IGNORECASE)
MANY = 6  # columns that the page's width holds; with more it takes the window's


@dataclass(frozen=True)
class Code:
    """A command or a listing, shown as it is."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming the row; columns of numbers are set flush right.

    A cell's further lines are set small below its first: a number's interval.
    """

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are of numbers."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: {len(row)} cells for {self.columns}")
        return [
            column > 0
            and all(NUMBER.fullmatch(row[column].partition("\n")[0]) for row in self.rows)
            for column in range(len(self.columns))
        ]


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


# A text is a paragraph, or several that blank lines part; names with values stand side by side.
Block = str | Mapping[str, str] | Code | Table | Picture


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
    environment = Environment(
        loader=PackageLoader("cleanclip_jax", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["paragraphs"] = _paragraphs
    template = environment.get_template("page.html")
    return template.render(title=title, intro=intro, sections=sections, many=MANY).lstrip()


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
