"""The clean command, at small size: a few steps, in which every canary counts as planted."""

import json
import shutil
import time
from pathlib import Path

import pytest
from helpers.torch_files import cleanclip_file

from cleanclip_jax import cli
from cleanclip_jax.cleaning import cleaning
from cleanclip_jax.data.digits import NAMES
from cleanclip_jax.jobs.clean import fitting
from cleanclip_jax.run.members import train_members
from cleanclip_jax.start.store import load_saved
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.text.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("cache")

DATA = "{'kind': 'digits', 'templates': ['a handwritten {}.'], 'split': 'train'}"
LABELLED = DATA.replace("train", "test")
FLAGS = [f"--data={DATA}", f"--labelled={LABELLED}", "--steps=4", "--plant-at=1e-3"]
FLAGS += ["--invert=0", "--drop=0", "--config.train.batch_size=16", "--config.data.workers=0"]
FLAGS += ["--config.evaluation.templates=['a handwritten {}.']"]


def clean(model: Path, output: Path, *flags: str) -> int:
    return cli.main(["clean", str(model), f"--output={output}", *FLAGS, *flags])


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The names of the runs that are trained; every canary counts as planted."""
    names = []

    def count(runs):
        names.extend(path.name for path in runs)
        return train_members(runs)

    monkeypatch.setattr(cleaning, "train_members", count)
    monkeypatch.setattr(cleaning, "TOOK", 0.0)
    return names


def test_a_run_is_cleaned_and_handed_back_as_a_workdir(
    workdir, tmp_path, trained, capsys, monkeypatch
):
    output = tmp_path / "cleaned"
    one = ("--rates=1e-4", "--canaries=checkerboard", "--bound=1")
    assert clean(workdir, output, *one) == 0
    folder = tmp_path / "cleaned.cleaning"
    results = json.loads((folder / "results.json").read_text())
    chosen = results["chosen"]
    assert trained == ["planted", "cleanclip,0.0001"]
    canary = chosen["canaries"]["checkerboard"]
    assert canary["floor"] >= results["planted"]["checkerboard"]["before"]
    assert canary["limit"] == pytest.approx(canary["floor"] + 1)
    assert load_saved(output)[0] == 4
    page = (folder / "report.html").read_text()
    assert "What this shows, and what it does not" in page
    assert "checkerboard" in capsys.readouterr().out
    # What is held out is trained on by no run.
    keep = json.loads((folder / "planted/inputs.json").read_text())["files"]
    assert keep["data.train.keep"]["path"].endswith("train.parquet")
    # Another call goes on with what is there.
    shutil.rmtree(output)
    assert clean(workdir, output, *one) == 0
    assert load_saved(output)[0] == 4
    # And never with other settings.
    shutil.rmtree(output)
    assert clean(workdir, output, *one, "--seed=1") == 2
    # Where no model passes, nothing is delivered.
    monkeypatch.setattr("cleanclip_jax.jobs.clean.choose", lambda points: None)
    assert clean(workdir, output, *one) == 3
    assert not output.exists()
    assert "Nothing is delivered as clean" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_checkpoint_comes_back_in_its_format(golden, tmp_path, trained):
    # With words of its own: a file of CLIP's vocabulary is taken as it is.
    file, model, output = (tmp_path / name for name in ("in.pt", "model", "out.pt"))
    cleanclip_file(golden, "vit", file)
    captions = [f"a handwritten {name} {i}" for i in range(60) for name in NAMES]
    Tokenizer.train(captions, 300, 16).save(tmp_path / "tokenizer.json")
    words = f"--tokenizer={tmp_path}/tokenizer.json"
    assert cli.main(["convert", str(file), str(model), words]) == 0
    more = ("--rates=1e-5,1e-4", "--bound=1", "--deliver=afresh", "--invert=1")
    assert clean(model, output, *more) == 0
    assert trained == ["planted", "cleanclip,1e-05", "cleanclip,0.0001", "afresh"]
    assert open_checkpoint(output).origin.format == open_checkpoint(file).origin.format
    results = json.loads((tmp_path / "out.pt.cleaning/results.json").read_text())
    assert set(results["smallest"]) == {"before", "after"}
    config = json.loads((tmp_path / "out.pt.cleaning/afresh/config.json").read_text())
    assert config["start"] == str(model)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rates=1e-3,x"], "--rates=1e-3,x: give learning rates"),
        (["--poison=0.5"], "--poison=0.5: it is above 0 and at most 0.3"),
        (["--methods=clean"], "--methods"),
        (["--canaries=parrot"], "--canaries"),
        (["--canaries=wanet,wanet"], "--canaries=wanet,wanet: one is named twice"),
        (["--plant-at=0"], "--plant-at=0: it is above 0 and at most 1"),
        (["--budget=2"], "--budget=2: give a time"),
        (["--steps=1"], "--steps=1: it takes a whole number, 4 or more"),
        (["--config.train.steps=7"], "--config.train.steps is set by --steps here"),
        (["--config.attack.rate=1"], "--config.attack.rate can't be changed here"),
        (["--config.train.batch_size=0"], "config.train.batch_size"),
        (["--data=pairs.txt"], "--data=pairs.txt: give a .csv"),
        ([f"--output={__file__}"], "exists: name a new file or folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    workdir, tmp_path, capfd, flags, message
):
    assert clean(workdir, tmp_path / "out", *flags) == 2
    err = capfd.readouterr().err.strip()
    assert message in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_what_no_file_can_hold_is_refused_before_anything_is_trained(workdir, tmp_path, capfd):
    model = tmp_path / "model"
    shutil.copytree(workdir, model)
    config = json.loads((model / "config.json").read_text())
    config["model"]["activation"] = "gelu"
    (model / "config.json").write_text(json.dumps(config))
    assert clean(model, tmp_path / "out.pt") == 2
    assert "programs run QuickGELU" in capfd.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == [model]


def test_a_budget_leaves_out_rates_by_what_planting_took(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "step_seconds": 1.0}\n')
    assert fitting(100, tmp_path, None, 4) == 4
    assert fitting(100, tmp_path, time.monotonic() + 450, 4) == 2
    assert "the 2 highest of 4 rates; 2 are left out" in capsys.readouterr().out
    assert fitting(100, tmp_path, time.monotonic() - 1, 4) == 1
