"""`cleanclip detect model`: DECREE of a run beside a floor model, taken up where it stopped."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanclip_jax.detect.decree import Patch
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs import detect_model

POISONED = Path(__file__).parent.parent / "golden/workdirs/poisoned"
SHORT = ["--pictures=8", "--batch=4", "--steps=3", "--config.mesh.data=1"]


def detect(workdir: Path, *more: str) -> dict:
    assert detect_model.main([f"--workdir={workdir}", *SHORT, *more]) == 0
    return json.loads((workdir / "detect/model.json").read_text())


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return shutil.copytree(POISONED, tmp_path / "run")


def test_seeds_that_are_done_stay_and_further_ones_follow(workdir, capsys, monkeypatch):
    searched = []

    def drawn(tower, pictures, steps, batch, seed):
        side = pictures.shape[1]
        searched.append(seed)
        rows = np.zeros((side, side), np.float32), np.zeros((side, side, 3), np.float32)
        return Patch(float(len(searched)), *rows, steps)

    monkeypatch.setattr(detect_model, "smallest_patch", drawn)
    first = detect(workdir, "--seeds=1", f"--floor={POISONED}")
    assert [(one["of"], one["seed"]) for one in first["searches"]] == [("model", 0), ("floor", 0)]
    assert first["ratio"] == 0.5
    with Image.open(workdir / "detect/trigger.png") as image:
        assert image.format == "PNG"
    capsys.readouterr()
    more = detect(workdir, "--seeds=2", f"--floor={POISONED}")
    assert searched == [0, 0, 1, 1] and more["searches"][:2] == first["searches"]
    assert more["ratio"] == 2 / 3
    assert "a ratio of 0.67" in capsys.readouterr().out
    with pytest.raises(UserError, match="other models, pictures or flags"):
        detect(workdir, "--seeds=2")


@pytest.mark.slow
def test_a_model_searched_twice_has_the_same_patch(workdir, capsys):
    content = detect(workdir, "--seeds=1", f"--floor={POISONED}")
    model, floor = content["searches"]
    assert model["size"] == floor["size"] and model["steps"] == 3
    assert "smallest patch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps=0"], "--steps=0"),
        (["--config.train.steps=3"], r"config\.train\.steps belongs to the model"),
        (["--floor=GONE"], "GONE"),
    ],
)
def test_what_it_can_not_do_is_one_line(workdir, words, message):
    with pytest.raises(UserError, match=message):
        detect(workdir, *words)
    assert not (workdir / "detect").exists()
