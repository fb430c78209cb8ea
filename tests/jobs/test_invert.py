"""`cleanclip invert`: a target, a trigger and its units, and the run that tunes with them."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.small_run import small_config, train
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.config import load
from cleanclip_jax.detect import invert_target
from cleanclip_jax.detect.decree import Patch
from cleanclip_jax.detect.inversion import Inversion
from cleanclip_jax.detect.scored import as_they_are
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.losses.inverted import Inverted
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.workdir import Workdir

DIGITS = {"kind": "digits", "split": "train", "templates": ["a handwritten {}."]}
SHORT = ("--pictures=96", "--steps=2", "--search=2", "--batch=16", "--config.mesh.data=1")


def invert(start: Path, output: Path, *more: str) -> int:
    source = f"--config.data.train={DIGITS}"
    words = ("invert", "--config=configs/invertune.py", f"--output={output}", source)
    return cli.main([*words, f"--config.start={start}", *SHORT, *more])


def fails(capsys: pytest.CaptureFixture, start: Path, output: Path, *more: str) -> str:
    assert invert(start, output, *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and not output.exists()
    return lines[0]


def tuning(start: Path, inverted: Path):
    """configs/invertune.py on the digits, two steps of sixteen."""
    config, small = load("configs/invertune.py"), small_config("mmcl")
    config.start, config.data.train = str(start), small.data.train
    config.data.workers = 0
    config.objective.align.inverted = str(inverted)
    config.train.batch_size, config.train.steps = 16, 2
    config.train.log_every, config.mesh.data = 1, 1
    return config


def to_the_commonest(tower, texts, targets, pictures, steps, seed):
    """In place of a search: the class that most pictures are taken for needs the smallest patch."""
    plain, side = Inversion(tower.encode, as_they_are, {}), pictures.shape[1]
    classes, _ = tower.predicted(tower.units(plain, {}, pictures, 16))
    common = np.bincount(classes).argmax()
    for target in targets:
        rows = np.zeros((side, side), np.float32), np.zeros((side, side, 3), np.float32)
        yield Patch(1.0 if target == common else 2.0, *rows, steps)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A start, and what was inverted of it."""
    folder = tmp_path_factory.mktemp("invert")
    config = small_config()
    config.train.steps = config.train.checkpoint_every = 200
    train(config, start := folder / "start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invert_target, "caption_patches", to_the_commonest)
        assert invert(start, folder / "inverted", "--layers=1") == 0
    return start, folder / "inverted"


@pytest.mark.slow
def test_it_writes_a_target_a_trigger_and_units(made):
    start, output = made
    one = Inverted.load(output)
    shares = {name: x for name, x in one.facts["smallest_patches"].items() if x is not None}
    assert one.facts["found"] and len(one.facts["smallest_patches"]) == 10
    assert one.facts["target"]["name"] == min(shares, key=lambda name: shares[name])
    assert one.mask.shape == one.pattern.shape == (16, 16, 3)
    assert one.mask.min() >= 0 and one.mask.max() <= 1
    (critical,) = one.critical.items()
    assert critical[0] == "block1" and critical[1].shape == (5, 64)
    assert one.facts["start"]["path"] == str(start)
    with Image.open(output / "trigger.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.slow
def test_a_run_tunes_with_it_and_knows_it_again(made, tmp_path):
    start, inverted = made
    train(tuning(start, inverted), tmp_path / "run")
    rows = read_lines(tmp_path / "run/metrics.jsonl")
    assert all(np.isfinite(row["align"]) and row["preserve"] >= 0 for row in rows)
    recorded = json.loads((tmp_path / "run/inputs.json").read_text())["artefacts"]["align"]
    assert recorded == {"path": str(inverted), "digest": Inverted.load(inverted).digest}
    other = Inverted.load(inverted)
    again = tmp_path / "again"
    again.mkdir()
    Inverted(other.facts, 1 - other.mask, other.pattern, other.critical).save(again)
    inverted.rename(tmp_path / "away")
    again.rename(inverted)
    try:
        with pytest.raises(UserError, match="begun with another"):
            check_run(tuning(start, inverted), Workdir(tmp_path / "run"))
    finally:
        inverted.rename(again)
        (tmp_path / "away").rename(inverted)


@pytest.mark.slow
def test_what_was_made_of_another_model_is_refused(made, tmp_path):
    start, inverted = made
    one = Inverted.load(inverted)
    for name, facts, mask, message in (
        ("digest", {**one.facts, "start": {"path": "x", "digest": "0"}}, one.mask, "another model"),
        ("side", one.facts, one.mask[:8, :8], "another architecture"),
    ):
        (tmp_path / name).mkdir()
        Inverted(facts, mask, mask, one.critical).save(tmp_path / name)
        with pytest.raises(UserError, match=message):
            check_run(tuning(start, tmp_path / name), Workdir(tmp_path / "run"))
    config = tuning(start, inverted)
    config.objective.align.inverted = None
    with pytest.raises(UserError, match=r"config\.objective\.align\.inverted"):
        check_run(config, Workdir(tmp_path / "run"))


def test_what_it_can_not_do_is_one_line(tmp_path, capsys):
    start, output = Path(__file__).parent.parent / "golden/workdirs/poisoned", tmp_path / "new"
    assert "unknown 'sevn'" in fails(capsys, start, output, "--target=sevn")
    test = {**DIGITS, "split": "test"}
    assert "is measured on" in fails(capsys, start, output, f"--config.data.train={test}")
    assert "--steps=0" in fails(capsys, start, output, "--steps=0")
    assert "config.start is not set" in fails(capsys, start, output, "--config.start=None")
    gone = {"kind": "csv", "path": str(tmp_path / "gone.csv")}
    assert "gone.csv" in fails(capsys, start, output, f"--config.data.train={gone}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert invert(start, tmp_path / "full") == 2
    assert "is not empty" in capsys.readouterr().err
