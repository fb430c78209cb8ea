"""The persist command: what it writes, that it goes on, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from cleanclip_jax import cli
from cleanclip_jax.jobs import persist

pytestmark = pytest.mark.usefixtures("cache")

KEEP = ["--config.data.workers=0", "--config.train.batch_size=256", "--alpha=0,1", "--seeds=0"]
KEEP += ["--rounds=1", "--pictures=16", "--epochs=1"]


@pytest.fixture
def cleaned(workdir, tmp_path) -> Path:
    """The same weights, as a run that says that it began with the poisoned one."""
    path = shutil.copytree(workdir, tmp_path / "cleaned")
    config = json.loads((path / "config.json").read_text())
    config |= {"attack": None, "start": str(workdir)}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def floor(workdir, tmp_path) -> Path:
    """And as one that never was poisoned."""
    path = shutil.copytree(workdir, tmp_path / "floor")
    config = json.loads((path / "config.json").read_text())
    config["attack"] = config["evaluation"]["attack"] = None
    (path / "config.json").write_text(json.dumps(config))
    return path


def run(cleaned: Path, poisoned: Path, *flags: str) -> int:
    return cli.main(["persist", f"--workdir={cleaned}", f"--poisoned={poisoned}", *KEEP, *flags])


def test_it_writes_table_picture_and_page_and_goes_on(workdir, cleaned, floor, capsys, monkeypatch):
    flags = (f"--floor={floor}", "--protocols=path")
    assert run(cleaned, workdir, *flags) == 0
    folder = cleaned / "persist"
    content = json.loads((folder / "persist.json").read_text())
    assert {row["protocol"] for row in content["rows"]} == {"before", "path"}
    assert content["models"]["floor"] == str(floor)
    assert "| path | mean ASR |" in capsys.readouterr().out
    assert (folder / "persist.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "Does it stay away?" in page and "cleanclip persist --workdir=" in page
    # A second protocol goes on with the first's rows.
    measured = []
    monkeypatch.setattr(persist, "measure_path", lambda *args: measured.append("path"))
    monkeypatch.setattr(persist, "measure_reactivation", lambda *args: measured.append("woken"))
    assert run(cleaned, workdir, f"--floor={floor}", "--protocols=path,reactivation") == 0
    assert measured == ["path", "woken"]
    again = json.loads((folder / "persist.json").read_text())
    assert again["rows"] == content["rows"]
    assert run(cleaned, workdir, *flags, "--radius=0.1") == 2
    assert "holds figures with another radius" in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it(workdir, cleaned, floor):
    assert run(cleaned, workdir, f"--floor={floor}") == 0
    rows = json.loads((cleaned / "persist/persist.json").read_text())["rows"]
    kinds = {(row["protocol"], row["model"]) for row in rows}
    both = ("path", "retune", "rebound", "reactivation", "presence", "before")
    assert {(protocol, model) for protocol in both for model in ("cleaned", "floor")} <= kinds
    page = (cleaned / "persist/report.html").read_text()
    for words in ("retune, ", "rebound, ", "reactivated", "BEC", "z-score", "is ours"):
        assert words in page
    assert cli.main(["evaluate", f"--workdir={cleaned}"]) == 0
    assert cli.main(["report", str(cleaned), "--quick"]) == 0
    assert "Does it stay away?" in (cleaned / "report/report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocols=path,rebirth"], "--protocols"),
        (["--seeds=0,0"], "--seeds=0,0: give numbers, each once"),
        (["--epochs=1,x"], "--epochs=1,x: give numbers"),
        (["--epochs=0"], "--seeds are 0 or more, --epochs 1 or more"),
        (["--rates=-1"], "--rates above 0"),
        (["--rates=nan"], "--rates=nan: give numbers"),
        (["--rates=inf"], "--rates=inf: give numbers"),
        (["--poisons=0"], "--poisons=0: it takes a whole number, 1 or more"),
        (["--pictures=1"], "--pictures=1: it takes a whole number, 2 or more"),
        (["--radius=1"], "--radius=1: it is above 0"),
        (["--step-size=0"], "--step-size=0: it is above 0"),
        (["--alpha=x"], "--alpha=x: it takes numbers"),
        (["--alpha=0,2"], "--alpha=0,2: a path has places from 0 to 1"),
        (["--config.train.steps=7"], "--config.train.steps is set by --epochs here"),
        (["--config.attack.rate=1"], "--config.attack.rate can't be changed here"),
        (["--config.train.batch_size=4096"], "batch_size 4096 is larger than the data"),
        (["--config.train.batchsize=4"], "batchsize"),
        (["--data=pairs.txt"], "--data=pairs.txt: give a .csv"),
        (["--poisoned=nowhere"], "nowhere is no workdir"),
        (["--config.evaluation.attack=None"], "has no attack: name the run that was poisoned"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(workdir, cleaned, capfd, flags, message):
    assert run(cleaned, workdir, *flags) == 2
    err = capfd.readouterr().err.strip()
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err and not (cleaned / "persist").exists()


def test_a_floor_that_was_poisoned_is_one_line(workdir, cleaned, capfd):
    for floor in (workdir, cleaned):
        assert run(cleaned, workdir, f"--floor={floor}") == 2
        assert f"{workdir} was poisoned" in capfd.readouterr().err.strip().splitlines()[-1]


def test_a_file_needs_a_folder_pairs_and_rates(workdir, tmp_path, golden, capfd):
    from helpers.torch_files import cleanclip_file

    cleanclip_file(golden, "vit", file := tmp_path / "vit.pt")
    for flags, message in (
        ((), "name a folder with --output"),
        ((f"--output={tmp_path / 'out'}",), "give --data"),
    ):
        assert run(file, workdir, *flags) == 2
        assert message in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
