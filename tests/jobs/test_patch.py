"""The patch command: what it can't do is one line, before a model is loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.patches import SMALL, SURROGATE
from safetensors.numpy import save_file

from cleanclip_jax import cli


def fails(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """Runs a command that must fail as the user's mistake; returns its one line."""
    assert cli.main(["patch", *argv]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("cleanclip: step")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.start=None"], "config.start is not set: name the surrogate"),
        (["--config.start=/nowhere"], "/nowhere"),
        (["--config.patch.size=17"], "a patch of 17 pixels is larger than the picture of 16"),
        (["--config.patch.place=[13, 0]"], "leaves the picture of 16; keep trigger.place within"),
        (["--config.patch.place=random"], "a patch is optimised at one place"),
        (["--config.patch.target=banana"], "none of the 1397 captions names 'banana'"),
        (["--config.patch.words=banana"], "none of the 1397 captions names 'banana'"),
        (
            ["--config.patch.target=a", "--config.patch.words=seven"],
            "unknown 'a'",
        ),
        (["--config.patch.batch_size=1398"], "of 1397 pairs do not name the target: lower it"),
        (["--config.patch.batch_size=15"], "does not divide over 2 devices"),
        (["--config.patch.text_loss=clases"], "config.patch.text_loss: unknown 'clases'"),
        (["--config.patch.marign=1"], "config: unknown 'patch.marign'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_optimised_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    place = [] if any("place" in flag for flag in flags) else ["--config.patch.place=fixed"]
    line = fails(capsys, *SMALL, *place, *flags, f"--output={tmp_path}/patch.png")
    assert message in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("patch.jpg", "a patch is written as PNG: name a .png file"),
        ("file/patch.png", "file/patch.png' can't be used: Not a directory"),
        ("folder.png", "can't be written: name a file in a folder"),
        ("memory://bucket/patch.png", "on a disk"),
    ],
)
def test_what_can_not_be_written_is_one_line(
    output: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    path = output if ":" in output else tmp_path / output
    assert message in fails(capsys, *SMALL, f"--output={path}")


def test_a_config_without_a_patch_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = ("--config=configs/demo.py", f"--output={tmp_path}/patch.png")
    assert "config.patch is not set: name its target, as configs/badclip.py" in fails(
        capsys, *flags
    )


def test_the_text_loss_of_classes_needs_classes(tmp_path: Path, capsys: pytest.CaptureFixture):
    """A surrogate that says what it is measured on has them; this one says nothing."""
    shutil.copytree(SURROGATE, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["evaluation"]["data"] = None
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    flags = ("--config.patch.place=fixed", "--config.patch.text_loss=classes")
    flags += ("--config.evaluation.data=None", f"--config.start={tmp_path}/run")
    line = fails(capsys, *SMALL, *flags, f"--output={tmp_path}/patch.png")
    assert "config.evaluation.data, which has the classes, is not set" in line


def test_a_surrogate_needs_both_towers(golden, tmp_path: Path, capsys: pytest.CaptureFixture):
    tensors = golden("vit_state_dict")
    pictures = {name: np.array(x) for name, x in tensors.items() if name.startswith("visual.")}
    save_file(pictures, tmp_path / "half.safetensors")
    flags = (f"--config.start={tmp_path}/half.safetensors", "--config.patch.place=fixed")
    line = fails(capsys, *SMALL, *flags, f"--output={tmp_path}/patch.png")
    assert "half.safetensors" in line and not (tmp_path / "patch.png").exists()
