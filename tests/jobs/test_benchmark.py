"""The benchmark command, on models of two steps: made once, carried on, failed in part."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.small_suite import small_suite
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.suite import making


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def whole(suite: Path, cache: None) -> Path:
    """A suite that was run to its end."""
    folder = suite.parent / "work"
    assert cli.main(["benchmark", str(suite), f"--workdir={folder}"]) == 1
    return folder


def cells(folder: Path) -> list[dict]:
    return list(json.loads((folder / "benchmark.json").read_text())["cells"].values())


def name(row: dict) -> str:
    return " ".join(row["at"].get(key, "") for key in ("attack", "defence", "rate", "detector"))


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The folders of the runs that are trained."""
    names: list[str] = []

    def train(runs):
        names.extend(path.name for path in runs)
        return really(runs)

    really = making.train_members
    monkeypatch.setattr(making, "train_members", train)
    return names


@pytest.mark.slow
def test_every_cell_is_made_or_says_why_not(whole):
    rows = cells(whole)
    assert len(rows) == 14
    failed = {name(row) for row in rows if "error" in row}
    assert failed == {name(row) for row in rows if row["at"]["attack"] == "wrong"}
    assert len(failed) == 6
    by_name = {name(row): row for row in rows}
    poisoned = by_name["badnet   "]
    assert {"ca", "asr", "pa", "floor_asr"} <= poisoned["figures"].keys()
    assert poisoned["picture"] and poisoned["cost"]["pairs"] == 32
    cleaned = by_name["badnet mmcl 0.001 "]
    assert cleaned["figures"]["asr"]["of"] > 300 and cleaned["cost"]["flops"] > 1e6
    assert "--config.start=" in cleaned["command"]
    assert by_name["badnet   slof"]["figures"].keys() >= {"auroc", "tpr_at_fpr_5", "tpr_at_fpr_1"}
    assert by_name["badnet   bdetclip"]["figures"]["auroc"]["value"] is not None
    assert {"badnet   decree", "never poisoned   decree"} <= by_name.keys()
    assert (whole / "benchmark.html").stat().st_size > 10_000
    assert (whole / "benchmark.csv").read_text().count("\n") == 15


@pytest.mark.slow
def test_failures_are_named_at_the_end(whole, suite, capsys):
    """They are tried again, and the others are not."""
    before = cells(whole)
    assert cli.main(["benchmark", str(suite), f"--workdir={whole}"]) == 1
    shown = capsys.readouterr()
    assert "failed: demo, mini, wrong, seed 0" in shown.err and "elephant" in shown.err
    assert "8 of 14 cells" in shown.out
    assert [r for r in cells(whole) if "error" not in r] == [r for r in before if "error" not in r]


@pytest.mark.slow
def test_what_has_figures_is_not_made_again(whole, suite, trained):
    command = ["benchmark", str(suite), f"--workdir={whole}", "--only=attack=badnet"]
    assert cli.main(command) == 0 and not trained
    assert cli.main([*command, "--only=attack=badnet,defence=mmcl", "--again"]) == 0
    assert len(trained) == 4  # the floor, the poisoned model and two rates, all known to be done


@pytest.mark.slow
def test_figures_are_carried_in_and_a_row_is_added(whole, suite, trained, tmp_path):
    """A new defence: its start, which is there as figures alone, is trained again, and no more."""
    command = ["benchmark", f"{suite}:more", f"--workdir={tmp_path / 'new'}"]
    command += [f"--merge={whole / 'benchmark.json'}", "--only=attack=badnet"]
    assert cli.main([*command, "--limit=0"]) == 0 and not trained
    assert len(cells(tmp_path / "new")) == 14
    assert cli.main(command) == 0
    assert [folder.split("-")[0] for folder in trained] == [
        "demo,_mini,_never_poisoned,_seed_0",
        "demo,_mini,_badnet,_seed_0",
        "demo,_mini,_badnet,_seed_0,_more,_rate_0.002",
    ]
    assert len(cells(tmp_path / "new")) == 15


@pytest.mark.slow
def test_a_plan_runs_nothing(whole, suite, trained, capsys, tmp_path):
    assert cli.main(["benchmark", str(suite), f"--workdir={whole}", "--plan"]) == 0
    assert "14 cells, 6 to run" in capsys.readouterr().out
    assert cli.main(["benchmark", str(suite), f"--workdir={tmp_path / 'no'}", "--plan"]) == 0
    assert not trained and not (tmp_path / "no").exists()


CC3M = """
from cleanclip_jax.config import load

SMALL = (
    "model.image_size=16", "train.batch_size=16", "train.steps=2", "optimizer.warmup_steps=1",
    "mesh.data=1", "data.workers=0", "text.tokenizer=trained", "text.vocab_size=300",
    "text.context_length=16",
)


def get_config():
    suite = load("configs/benchmark.py:cc3m")
    with suite.unlocked():
        suite.models["ViT-B/32"] = ("model.variant=ViT-32px/8-mini",)
        for set_ in suite.sets.values():
            set_["keys"] = (*set_["keys"], *SMALL)
            set_.clean = (*set_.clean, *(k for k in SMALL if not k.startswith(("model", "text"))))
        for attack in suite.attacks.values():
            attack["keys"] = (*attack["keys"], "attack.count=4")
    return suite
"""


@pytest.mark.slow
def test_the_clusters_suite_runs_its_first_cells_on_made_data(tmp_path, monkeypatch, cache):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), np.uint8)
    for folder in ("cc3m", "clean", "imagenet"):
        (tmp_path / folder).mkdir()
        table = ["image,caption,class_name"]
        for i, picture in enumerate(pixels):
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
            name = ("banana", "tench", "goldfish")[i % 3]
            table.append(f"{i}.png,a picture of a {name} number {i},{name}")
        for name in ("train", "val"):
            (tmp_path / folder / f"{name}.csv").write_text("\n".join(table) + "\n")
    (tmp_path / "suite.py").write_text(CC3M)
    monkeypatch.chdir(tmp_path)
    command = ["benchmark", "suite.py", "--workdir=work"]
    assert cli.main([*command, "--only=model=ViT-B/32,attack=badnet,seed=0,kind=poisoned"]) == 0
    cleaned = "--only=model=ViT-B/32,attack=badnet,seed=0,defence=mmcl,rate=1e-06"
    assert cli.main([*command, cleaned]) == 0
    rows = {(row["at"]["kind"], row["at"].get("rate")): row for row in cells(Path("work"))}
    assert rows.keys() == {("poisoned", None), ("cleaned", "1e-06")}
    assert all(row["figures"]["asr"]["of"] == 26 for row in rows.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--only=attack=none",), "no such cell"),
        (("--limit=-1",), "0 or more"),
        (("--config.seed=1",), "sets it itself"),
        (("--merge=nowhere.json",), "nowhere.json"),
    ],
)
def test_a_mistake_is_one_line(suite, flags, message, capsys, tmp_path):
    command = ["benchmark", str(suite), f"--workdir={tmp_path / 'new'}", *flags]
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not (tmp_path / "new").exists()
