"""`cleanclip poison`: a manifest that training replays, and pictures for other tools."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import Pictures
from helpers.small_run import small_config
from ml_collections import ConfigDict
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.config import load, override
from cleanclip_jax.data.digits import NAMES, Digits
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.in_order import evaluation_batches, read_pair
from cleanclip_jax.data.stream.pipeline import Reading
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs import poison
from cleanclip_jax.report.pictures import poison_sheet
from cleanclip_jax.run.checked import poison_plan
from cleanclip_jax.run.settings import check_workdir, claim, resolve
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.geometry import resize_crop
from cleanclip_jax.workdir import Workdir

POISON = ("poison", "--config=configs/demo.py")
SMALL = ("--config.attack.count=5", "--config.attack.trigger.noise=fresh")
SIDE = 32


def digits(split: str = "train") -> Digits:
    return Digits(split, ["a handwritten {}."])


def fails(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """Runs a command that must fail as the user's mistake; returns its one line."""
    assert cli.main([*POISON, *argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poison")
    flags = (f"--export={folder}/pairs", "--clean", f"--export_test={folder}/test")
    assert cli.main([*POISON, f"--output={folder}/plan", "--rows=3", *flags, *SMALL]) == 0
    return folder


def test_the_sheet_shows_all_sources_of_a_mixture(monkeypatch: pytest.MonkeyPatch):
    sources = {split: {"kind": "digits", "split": split} for split in ("train", "test")}
    source = open_source({"kind": "mixture", "sources": sources})
    attack = {"trigger": {"name": "badnet", "size": 3}, "target": "seven", "count": 40}
    plan, shown = make_plan(attack, source, SIDE), []

    def read(source: Source, index: int) -> tuple[np.ndarray, str]:
        shown.append(source.where(index).partition(":")[0])
        return read_pair(source, index)

    monkeypatch.setattr("cleanclip_jax.report.pictures.read_pair", read)
    poison_sheet(source, plan, 4)
    assert len(shown) == 4 and set(shown) == {"train", "test"}


def test_help_names_keys_that_a_clean_config_takes(output: Path):
    (flag,) = re.findall(r"--config\.(attack.*)=\"(.*)\"\.", str(poison.__doc__))
    config = load("configs/demo.py")
    config.attack = None
    override(config, flag[0], flag[1].replace("OUTPUT", str(output / "plan")))
    assert isinstance(config.attack, ConfigDict)
    assert make_plan(config.attack.to_dict(), digits(), SIDE).target == "seven"


def test_it_writes_the_manifest_and_a_sheet(output: Path):
    plan = Plan.load(output / "plan/poison.parquet", digits())
    assert len(plan) == 5 and plan.target == "seven" and plan.header["attack"]["seed"] == 0
    # As wide as a page; three rows of pictures under a line of titles.
    with Image.open(output / "plan/contact_sheet.png") as sheet:
        assert sheet.size[0] == 1344 and 3 * 240 < sheet.size[1] < 3.5 * 260
    assert {path.name for path in (output / "plan").iterdir()} == {
        "poison.parquet",
        "contact_sheet.png",
    }


def test_exported_pairs_are_those_that_are_trained_on(output: Path):
    plan, source = Plan.load(output / "plan/poison.parquet"), digits()
    rows = rows_of(output / "pairs/pairs.csv")
    assert [int(row["index"]) for row in rows] == list(range(len(source)))
    assert [int(row["index"]) for row in rows if row["poisoned"] == "1"] == plan.index.tolist()
    for row in [*rows[:4], *(rows[i] for i in plan.index)]:
        index = int(row["index"])
        image, caption = resize_crop(np.asarray(source[index].image), SIDE), source.caption(index)
        assert row["original_caption"] == caption and row["where"] == source.where(index)
        if (poison := plan.poison_at(index)) is not None:
            assert poison.stamp is not None
            image, caption = plan.trigger.apply(image, poison.stamp), poison.caption
        assert row["caption"] == caption
        np.testing.assert_array_equal(pixels(output / "pairs" / row["image"]), image)


def test_the_exported_test_set_is_what_is_measured(output: Path):
    """The original's users could not make one."""
    plan, source = Plan.load(output / "plan/poison.parquet"), digits("test")
    rows = rows_of(output / "test/labels.csv")
    assert [int(row["label"]) for row in rows] == source.labels().tolist()
    assert rows[0]["class_name"] == NAMES[int(rows[0]["label"])]
    options = {"image_size": SIDE, "trigger": plan.trigger}
    with evaluation_batches(source, Reading(400), **options) as batches:
        measured = next(batches)
    for row, image in list(zip(rows, measured["images"], strict=True))[::20]:
        np.testing.assert_array_equal(pixels(output / "test" / row["image"]), image)


def test_the_same_command_goes_on_and_changes_nothing(output: Path, capsys):
    first, lost = output / "pairs/images/00000000.png", output / "pairs/images/00000007.png"
    before, content = first.stat().st_mtime_ns, lost.read_bytes()
    manifest = (output / "plan/poison.parquet").read_bytes()
    lost.unlink()
    flags = (f"--output={output}/plan", f"--export={output}/pairs", "--clean")
    assert cli.main([*POISON, *flags, *SMALL]) == 0
    assert first.stat().st_mtime_ns == before and lost.read_bytes() == content
    assert (output / "plan/poison.parquet").read_bytes() == manifest
    assert "5 of 1397 pairs poisoned with badnet for 'seven'" in capsys.readouterr().out


def test_only_the_poisoned_by_default(output: Path, tmp_path: Path):
    flags = (f"--config.attack.manifest={output}/plan/poison.parquet", f"--export={tmp_path}/few")
    assert cli.main([*POISON, f"--output={tmp_path}/plan", *flags, *SMALL]) == 0
    rows = rows_of(tmp_path / "few/pairs.csv")
    assert [row["poisoned"] for row in rows] == ["1"] * 5
    assert len(list((tmp_path / "few/images").iterdir())) == 5
    copied = (tmp_path / "plan/poison.parquet").read_bytes()
    assert copied == (output / "plan/poison.parquet").read_bytes()


def test_training_replays_a_manifest(output: Path, tmp_path: Path):
    """As `train` does it: begun, then taken up; and the run is measured with its attack."""
    manifest, source = str(output / "plan/poison.parquet"), digits()
    config = small_config()
    config.model.image_size = SIDE
    config.attack = ConfigDict({"manifest": manifest})
    tokenizer = Tokenizer.train(["a handwritten seven."], 300, 12)
    workdir = Workdir(tmp_path / "run")
    for _ in range(2):
        resolved = resolve(config, workdir)
        check_workdir(resolved, workdir, source)
        plan = poison_plan(resolved, workdir, source)
        assert plan == Plan.load(manifest)
        claim(resolved, workdir, source, tokenizer, plan, None)
    written = json.loads((tmp_path / "run/config.json").read_text())
    for attack in (written["attack"], written["evaluation"]["attack"]):
        assert attack["trigger"]["noise"] == "fresh" and attack["target"] == "seven"
        assert attack["manifest"] == manifest and attack["count"] == 5
    config.attack.target = "six"
    with pytest.raises(UserError, match=r"attack\.target: 'six' is not the manifest's, 'seven'"):
        resolve(config)


def test_what_it_did_not_make_is_left_alone(output: Path, tmp_path: Path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    assert "not empty and holds no poison plan" in fails(capsys, f"--output={mine}")
    assert "is another plan" in fails(capsys, f"--output={output}/plan")
    flags = (f"--output={output}/plan", *SMALL)
    assert "no export of this" in fails(capsys, *flags, f"--export={mine}")
    assert "no export of this" in fails(capsys, *flags, f"--export={output}/test")
    assert "no export of this" in fails(capsys, *flags, f"--export={output}/pairs")  # no --clean
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


def test_unreadable_pairs_are_left_out_and_named(tmp_path: Path, capsys):
    lines = ["image,caption"]
    for i in range(20):
        if i != 3:
            Image.new("RGB", (40, 32), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,number {i}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    source = f"--config.data.train={{'kind': 'csv', 'path': '{tmp_path}/pairs.csv'}}"
    flags = (f"--output={tmp_path}/plan", f"--export={tmp_path}/out", "--clean", source, *SMALL)
    assert "1 unreadable pictures, more than config.data.max_bad_share" in fails(capsys, *flags)
    assert not (tmp_path / "out/pairs.csv").exists() and (tmp_path / "out/bad_rows.jsonl").is_file()
    assert cli.main([*POISON, *flags, "--config.data.max_bad_share=0.05"]) == 0
    assert "19 pictures, 1 unreadable left out" in capsys.readouterr().out
    (bad,) = map(json.loads, (tmp_path / "out/bad_rows.jsonl").read_text().splitlines())
    assert (
        bad["index"] == 3 and bad["where"].startswith("pairs.csv row") and "3.png" in bad["reason"]
    )
    assert len(rows_of(tmp_path / "out/pairs.csv")) == 19


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.attack=None",), "poisons nothing"),
        (("--rows=0",), "--rows=0"),
        (("--clean",), "--clean is for --export"),
        (("--export_test=x", "--config.evaluation.data=None"), "evaluation.data is not set"),
        (("--config.attack.count=5000",), r"attack.count 5000"),
        (("--config.attack.manifest=no.parquet",), "no such poison plan"),
        (("--config.attack.trigger.name=wanett",), "'wanet'"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing(tmp_path: Path, capsys, flags, message: str):
    assert message in fails(capsys, f"--output={tmp_path}/plan", *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "trigger"),
    [
        *((name, name) for name in ("badnet", "blended", "wanet", "sig", "stripes", "text")),
        ("triangles", "triangles"),
        ("blended_stripes", "blended_stripes"),
        ("label_consistent", "badnet"),
        ("nashville", "nashville"),
    ],
)
def test_every_attack_has_its_config_by_name(name: str, trigger: str):
    attack = load(f"configs/pretrain.py:{name}").attack.to_dict()
    assert attack["count"] == 1500 and attack["target"] == "banana"
    captions = [("a banana", "an apple")[i % 2] for i in range(20)]
    plan = make_plan({**attack, "count": 10}, Pictures(captions), 224)
    assert plan.trigger.name == trigger
    consistent = name == "label_consistent"
    assert all(i % 2 == 0 for i in plan.index.tolist()) == consistent
    assert (plan.table["caption"] == plan.table["original_caption"]) == consistent


@pytest.mark.parametrize(("name", "parts"), [("multi", 3), ("dual_key", 1)])
def test_attacks_of_several_parts_or_keys_have_theirs_too(name: str, parts: int):
    attack = load(f"configs/pretrain.py:{name}").attack.to_dict()
    attack |= {"count": 10} | ({"half_keys": 5} if parts == 1 else {})
    plan = make_plan(attack, Pictures([f"number {i}" for i in range(50)]), 224)
    assert len(plan.parts) == parts and len(plan) == (30 if parts == 3 else 20)


PARTS = [
    {"trigger": {"name": "badnet", "size": 4}, "target": "seven", "count": 4},
    {"trigger": {"name": "nashville"}, "target": "six", "count": 3},
    {"kind": "targeted", "victims": 1, "copies": 2, "target": "random"},
]


@pytest.mark.slow
def test_the_sheet_and_the_exports_show_every_part(tmp_path: Path, capsys: pytest.CaptureFixture):
    config = tmp_path / "parts.py"
    config.write_text(
        "from cleanclip_jax.config import load\nfrom ml_collections import ConfigDict\n"
        "def get_config():\n    config = load('configs/demo.py')\n"
        f"    config.attack = ConfigDict({{'parts': {PARTS}}})\n    return config\n"
    )
    flags = (f"--output={tmp_path}/plan", f"--export={tmp_path}/pairs", "--rows=6")
    flags += (f"--export_test={tmp_path}/test",)
    assert cli.main(["poison", f"--config={config}", *flags]) == 0
    printed = capsys.readouterr().out
    assert "9 of 1397 pairs poisoned: 4 with badnet for 'seven', 3 with nashville for" in printed
    plan, source = Plan.load(tmp_path / "plan/poison.parquet"), digits()
    rows = rows_of(tmp_path / "pairs/pairs.csv")
    assert [int(row["part"]) for row in rows] == plan.table["part"].to_pylist()
    for row, planned in zip(rows, plan.table.to_pylist(), strict=True):
        shown = planned["source"] if planned["source"] >= 0 else planned["index"]
        image = resize_crop(np.asarray(source[shown].image), SIDE)
        poison = plan.poison_at(planned["index"])
        assert poison is not None and row["caption"] == poison.caption
        image = plan.put_on(image, poison.stamp, poison.part)
        np.testing.assert_array_equal(pixels(tmp_path / "pairs" / row["image"]), image)
    # Two rows of the sheet a part.
    with Image.open(tmp_path / "plan/contact_sheet.png") as sheet:
        assert 6 * 240 < sheet.size[1] < 6.5 * 260
    folders = sorted(path.name for path in (tmp_path / "test").iterdir())
    assert folders == ["badnet", "nashville"]
