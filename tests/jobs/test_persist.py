"""`cleanclip persist` from its flags to its page, on models of a few steps."""

import json
from pathlib import Path

import pytest
from helpers.three_models import DIGITS, three_models

from cleanclip_jax import cli

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return three_models(tmp_path_factory.mktemp("models"))


def persist(models: dict[str, Path], output: Path, *flags: str) -> int:
    named = [f"--workdir={models['cleaned']}", f"--poisoned={models['poisoned']}"]
    named += [f"--output={output}", f"--data={DIGITS}", "--rates=1e-3", "--seeds=0"]
    return cli.main(["persist", *named, *flags])


@pytest.mark.slow
def test_every_protocol_is_measured_once_and_shown(models, tmp_path, capsys):
    flags = [f"--floor={models['floor']}", "--epochs=1", "--alpha=0,0.5,1", "--rounds=1"]
    flags += ["--pictures=64", "--config.train.batch_size=128", "--config.data.workers=0"]
    assert persist(models, tmp_path / "out", *flags) == 0
    known = json.loads((tmp_path / "out/persist.json").read_text())
    protocols = {row["protocol"] for row in known["rows"]}
    assert protocols == {"before", "path", "retune", "rebound", "reactivation", "presence"}
    assert {row["model"] for row in known["rows"]} == {"cleaned", "poisoned", "floor"}
    page = (tmp_path / "out/report.html").read_text()
    assert "Does it stay away?" in page and (tmp_path / "out/persist.png").stat().st_size > 1000
    assert "| path | mean ASR |" in capsys.readouterr().out
    # The same command makes nothing again.
    assert persist(models, tmp_path / "out", *flags) == 0
    assert json.loads((tmp_path / "out/persist.json").read_text())["rows"] == known["rows"]
    assert "persist: " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocols=paths"], "'path'"),
        (["--seeds=0,0"], "--seeds=0,0: give numbers, each once"),
        (["--epochs=0"], "--epochs 1 or more"),
        (["--poisons=0"], "--poisons=0: it takes a whole number, 1 or more"),
        (["--radius=1.5"], "--radius=1.5: it is above 0"),
        (["--rates=inf"], "--rates=inf: give numbers"),
        (["--alpha=0,2"], "--alpha=0,2: a path has places from 0 to 1"),
        (["--config.optimizer.learning_rate=1"], "is set by --rates here"),
        (["--config.attack.rate=1"], "can't be changed here"),
        (["--config.train.batch_size=100000"], "is larger than the data"),
        (["--data=pairs.txt"], "give a .csv"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    models, tmp_path, capfd, flags, message
):
    assert persist(models, tmp_path / "out", *flags) == 2
    assert message in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_model_without_an_attack_is_no_poisoned_one(models, tmp_path, capfd):
    given = {**models, "poisoned": models["floor"]}
    assert persist(given, tmp_path / "out") == 2
    assert "has no attack" in capfd.readouterr().err
