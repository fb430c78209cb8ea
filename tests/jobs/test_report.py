"""The report command: small runs side by side on one page, and what it refuses."""

import html
import html.parser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.report.evaluation import measure_run
from cleanclip_jax.report.sweeps import Sweep, write_sweep
from cleanclip_jax.start.start import open_start

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PNG = b"\x89PNG"
GOLDEN = Path(__file__).parents[1] / "golden/workdirs"

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A poisoned run, measured, and two that say they cleaned it: no page looks at weights."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(GOLDEN / "poisoned", folder / "poisoned")
    config = json.loads((folder / "poisoned/config.json").read_text())
    config["evaluation"]["projection"] = 12
    (folder / "poisoned/config.json").write_text(json.dumps(config))
    start = open_start(folder / "poisoned")
    measure_run(start, start.config)
    for name, in_modal in (("cleanclip", 1.0), ("mmcl", 0.0)):
        shutil.copytree(folder / "poisoned", folder / name)
        (folder / name / "poison.parquet").unlink()
        config |= {"start": str(folder / "poisoned"), "attack": None}
        config["objective"]["in_modal"] = in_modal
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "mmcl/projection.npz").unlink()  # is projected for the page
    return folder


class Page(html.parser.HTMLParser):
    """The page's headings, table rows, pictures' texts, and all words."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.rows, self.alts, self.words, self._in = [], [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._in = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "img":
            self.alts.append(dict(attrs)["alt"])

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        self.words += data
        if self._in == "h2":
            self.headings.append(data)
        elif self._in in ("th", "td", "small"):
            self.rows[-1][-1] += data


def report(*words):
    return cli.main(["report", *map(str, words)])


def refused(capsys, *words):
    assert report(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def read(folder):
    return Page((folder / "report.html").read_text())


@pytest.mark.slow
def test_defences_side_by_side(runs, tmp_path, capsys):
    folders = [runs / name for name in ("poisoned", "mmcl", "cleanclip")]
    output = tmp_path / "page"
    assert report(*folders, f"--output={output}", "--pictures=3") == 0
    assert f"written: {output / 'report.html'}" in capsys.readouterr().out
    page = read(output)
    assert page.headings == [
        *("Results", "The poisons", "What the trigger changes most", "Embeddings", "Training"),
        *("What was run", "Commands", "The report's environment", "Every figure"),
    ]
    for folder in folders:
        evaluation = json.loads((folder / "evaluation.json").read_text())["figures"]
        cells = [
            f"{100 * evaluation[name]['value']:.1f}" for name in ("ca", "asr", "asr_all", "pa")
        ]
        shown = next(row for row in page.rows if row[0] == folder.name)
        assert [cell.split(" [")[0] for cell in shown[1:5]] == cells
        low, high = (100 * end for end in evaluation["ca"]["interval"])
        assert shown[1].endswith(f"[{low:.1f}, {high:.1f}]")
    assert "clean pictures whose true class comes first" in page.words
    assert len(page.alts) == 5 and all(page.alts)
    pictures = [row for row in page.rows if row[0].startswith(("1. ", "2. ", "3. "))]
    assert len(pictures) == 3 and len(pictures[0]) == 2 + 3
    assert all(row[1] != "seven" for row in pictures)  # those of the target are left out
    turned = [float(row[2].rsplit(" ", 1)[-1]) for row in pictures]
    assert turned == sorted(turned)
    files = {path.name for path in output.iterdir()}
    assert files == {
        *("report.html", "curve.png", "poisons.png", "changed.png"),
        *("projection.png", "training.png"),
    }
    assert {"CleanCLIP finetuning", "MMCL finetuning"} <= {row[1] for row in page.rows}
    assert f"cleanclip evaluate --workdir={runs}/mmcl" in page.words
    # The page is made again in its own place.
    assert report(*folders, f"--output={output}", "--quick") == 0
    assert "What the trigger changes most" not in read(output).headings


def test_one_run_is_shown_with_what_it_began_with(runs):
    assert report(runs / "cleanclip", "--quick") == 0
    page = read(runs / "cleanclip" / "report")
    assert [row[0] for row in page.rows][:3] == ["model", "start: poisoned", "cleanclip"]
    assert "start: poisoned" in page.alts[0] and "The poisons" in page.headings


@pytest.mark.slow
def test_a_sweep_is_lines_and_the_best_of_them(runs, tmp_path):
    sweep, rows = tmp_path / "sweep", []
    for seed, (ca, asr) in {"0": (0.5, 0.01), "1": (0.6, 0.9)}.items():
        shutil.copytree(runs / "mmcl", sweep / "runs" / f"seed={seed}")
        way = [{"step": step, "ca": ca - 0.1, "asr": asr} for step in (1, 2)]
        workdir = str(sweep / "runs" / f"seed={seed}")
        rows.append({"seed": seed, "workdir": workdir, "ca": ca, "asr": asr, "course": way})
    command = "cleanclip sweep --config=configs/demo.py:mmcl"
    write_sweep(sweep, Sweep({"seed": ["0", "1"]}, rows), command)
    moved = tmp_path / "moved"
    sweep.rename(moved)
    assert report(moved, runs / "cleanclip", f"--output={tmp_path}/page", "--quick") == 0
    page = read(tmp_path / "page")
    row = next(row for row in page.rows if row[0] == "moved")
    assert row[1] == "2" and row[2].endswith("]")
    assert "The best of each line" in page.headings
    best = next(row for row in page.rows if row[0] == "runs")
    assert best[1:] == ["50.0 (1 of 2 seeds)"] * 3
    assert (tmp_path / "page/courses.png").read_bytes().startswith(PNG)
    assert "cleanclip sweep --config=configs/demo.py:mmcl" in page.words


@pytest.mark.slow
def test_quick_takes_no_device_and_reads_older_workdirs(tmp_path):
    """Runs of an older program, in a process in which JAX has no device that it could take."""
    for name in ("measured", "sweep"):  # the sweep's runs began with the measured one
        shutil.copytree(GOLDEN / name, tmp_path / name)
    program = "import sys; from cleanclip_jax import cli; sys.exit("
    program += " or ".join(
        f"cli.main(['report', '{name}', '--quick'])" for name in ("measured", "sweep")
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program})"],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "none", "PYTHONPATH": str(GOLDEN.parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = read(tmp_path / "measured/report")
    assert page.headings == [
        *("Results", "The poisons", "Training", "What was run", "Commands"),
        *("The report's environment", "Every figure"),
    ]
    figures = json.loads((GOLDEN / "measured/evaluation.json").read_text())["figures"]
    cells = [f"{100 * figures[name]['value']:.1f}" for name in ("ca", "asr", "asr_all", "pa")]
    assert [cell.split(" [")[0] for cell in page.rows[1][1:5]] == cells
    assert "JAX runs on" not in page.words
    page = read(tmp_path / "sweep/report")
    assert [row[0] for row in page.rows[1:4]] == [
        *("start: measured", "learning_rate 1e-3", "learning_rate 1e-4"),
    ]
    best = next(row for row in page.rows if row[0] == "learning_rate")
    assert best[1:] == ["none", "22.0 [18.2, 26.3]", "22.0 [18.2, 26.3]"]


@pytest.mark.slow
def test_other_definitions_stand_apart(runs, tmp_path):
    """Runs measured with another trigger don't share a table, and the page says why."""
    other = tmp_path / "other"
    shutil.copytree(runs / "mmcl", other)
    evaluation = json.loads((other / "evaluation.json").read_text())
    evaluation["trigger"]["size"] = 5
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    assert report(runs / "mmcl", other, f"--output={tmp_path}/page", "--quick") == 0
    page = read(tmp_path / "page")
    assert {"Results 1", "Results 2"} <= set(page.headings)
    assert "the figures don't compare" in page.words
    assert (tmp_path / "page/curve2.png").is_file()


@pytest.mark.slow
def test_a_newer_checkpoint_than_the_measured_is_noted(runs, tmp_path):
    stale = tmp_path / "stale"
    shutil.copytree(runs / "mmcl", stale)
    evaluation = json.loads((stale / "evaluation.json").read_text())
    (stale / "evaluation.json").write_text(json.dumps({**evaluation, "step": 1}))
    assert report(stale, "--quick") == 0
    assert (
        "was measured at step 1; its newest checkpoint is of step 2" in read(stale / "report").words
    )


def test_a_mistake_is_one_line(runs, tmp_path, capsys):
    assert "no folder" in refused(capsys, tmp_path / "nowhere")
    assert "no workdir of a run" in refused(capsys, tmp_path)
    shutil.copytree(runs / "mmcl", tmp_path / "new")
    (tmp_path / "new/evaluation.json").unlink()
    line = refused(capsys, tmp_path / "new")
    assert line.endswith(f"is not measured yet: cleanclip evaluate --workdir={tmp_path / 'new'}")
    assert "the same" in refused(
        capsys, runs / "mmcl", f"{runs}/mmcl/", f"--output={tmp_path}/page"
    )
    assert "holds no report" in refused(capsys, runs / "mmcl", f"--output={runs}")
    assert "whole number" in refused(capsys, runs / "mmcl", "--pictures=0")
    (tmp_path / "new/evaluation.json").write_text('{"torn')
    assert "not readable as JSON" in refused(capsys, tmp_path / "new")
    for content in ("3", "[]", "{}"):
        (tmp_path / "new/evaluation.json").write_text(content)
        assert "measure it again: cleanclip evaluate" in refused(capsys, tmp_path / "new")
        (tmp_path / "new/sweep.json").write_text(content)
        assert "give the sweep again" in refused(capsys, tmp_path / "new")
        (tmp_path / "new/sweep.json").unlink()


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which is not installed")
@pytest.mark.parametrize("dark", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_browser_shows_the_page(runs, tmp_path, dark):
    """As wide as a phone: nothing sticks out, tables and figures are there, dark is dark."""
    folders = [runs / name for name in ("poisoned", "mmcl", "cleanclip")]
    assert report(*folders, f"--output={tmp_path}/page", "--quick") == 0
    frame = tmp_path / "frame.html"
    text = (tmp_path / "page/report.html").read_text()
    frame.write_text(
        '<body style="margin:0"><iframe id="f" style="width:390px;height:900px;border:0"'
        f' srcdoc="{html.escape(text)}"></iframe><script>onload = () => {{'
        " const page = document.getElementById('f').contentDocument;"
        " if (page.documentElement.scrollWidth > 390) document.body.innerHTML = '';"
        " }</script>"
    )
    shot = tmp_path / "shot.png"
    subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}",),
            *(f"--screenshot={shot}", frame.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    picture = np.asarray(Image.open(shot).convert("L"))[:, :390].astype(float)
    paper = np.median(picture)
    assert paper < 50 if dark else paper > 240
    ink = np.abs(picture - paper) > 60
    assert 0.01 < ink.mean() < 0.5
    # All the way down: text, table, curve.
    assert all(part.any() for part in np.array_split(ink, 6))


@pytest.mark.slow
def test_further_sets_and_retrieval_have_their_places(runs, tmp_path):
    """Only what stands in evaluation.json: the figures of another set, copied."""
    other = tmp_path / "other"
    shutil.copytree(runs / "mmcl", other)
    evaluation = json.loads((other / "evaluation.json").read_text())
    evaluation["sets"]["far"] = evaluation["sets"]["data"] | {"target": None}
    evaluation["figures"]["far.ca"] = evaluation["figures"]["ca"] | {"value": 0.125}
    evaluation["figures"]["retrieval.text_to_image_r1"] = evaluation["figures"]["ca"] | {
        "value": 0.375
    }
    evaluation["retrieval"] = {"pictures": 8, "captions": 40, "target": None, "fingerprint": "f"}
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    assert report(other, "--quick") == 0
    page = read(other / "report")
    rows = [row for row in page.rows if row[0] == "other"]
    assert any(row[-1].startswith("37.5 ") for row in rows)
    assert any(row[1].startswith("12.5 ") and len(row) == 2 for row in rows)
    assert "retrieval: 8 pictures, 40 captions" in page.words
    # What it began with was measured on the first set alone: the two don't share a table.
    assert {"Results 1", "Results 2"} <= set(page.headings)
