"""Files and folders that may not be read or written: one line, exit 2, and nothing is written."""

import shutil
import sys
from pathlib import Path

import pytest
from helpers.rights import locked
from helpers.torch_files import random_values
from safetensors.numpy import save_file

from cleanclip_jax import cli
from cleanclip_jax.models.variants import VARIANTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
WORKDIRS = Path(__file__).parents[1] / "golden/workdirs"
DIGITS = "--source={'kind': 'digits'}"
CSV = "--source={'kind': 'csv', 'path': 'a.csv'}"
DEMO = "--config=configs/demo.py"
TRAIN = ("train", DEMO, "--config.mesh.data=1", "--config.train.steps=1")
# What may be read but not written, then what may neither; the command; a part of the line.
READ_ONLY = (
    ("folder", ("convert", "a.safetensors", "folder/new"), "folder/new can't be written"),
    ("folder", ("convert", "poisoned", "folder/new.pt"), "folder/new.pt can't be written"),
    (
        "folder",
        ("evaluate", "--workdir=poisoned", "--output=folder/x.json"),
        "x.json can't be written",
    ),
    ("poisoned", ("evaluate", "--workdir=poisoned"), "evaluation.json can't be written"),
    ("folder", ("poison", DEMO, "--output=folder/new"), "Permission denied"),
    ("folder", ("prepare", DIGITS, "--output=folder/new"), "Permission denied"),
    ("folder", ("report", "measured", "--output=folder/new", "--quick"), "Permission denied"),
    ("folder", ("sweep", DEMO, "--workdir=folder/new", "--over=seed=0"), "Permission denied"),
    ("folder", (*TRAIN, "--workdir=folder/new"), "Permission denied"),
)
LOCKED = (
    ("a.safetensors", ("convert", "a.safetensors", "new"), "a.safetensors can't be read"),
    ("poisoned", ("convert", "poisoned", "new.pt"), "Permission denied"),
    ("poisoned/checkpoints", ("convert", "poisoned", "new.pt"), "poisoned can't be read"),
    ("poisoned/checkpoints", ("evaluate", "--workdir=poisoned"), "Permission denied"),
    ("poisoned/config.json", ("evaluate", "--workdir=poisoned"), "config.json can't be read"),
    ("poisoned/tokenizer.json", ("evaluate", "--workdir=poisoned"), "tokenizer.json can't be read"),
    ("a.safetensors", ("evaluate", "--workdir=a.safetensors", "--output=x.json"), "can't be read"),
    ("measured/evaluation.json", ("report", "measured"), "evaluation.json can't be read"),
    ("folder", ("report", "folder/run"), "Permission denied"),
    ("a.csv", ("prepare", CSV, "--output=new"), "a.csv: Permission denied"),
    ("a.py", ("poison", "--config=a.py", "--output=new"), "a.py"),
    ("poisoned", (*TRAIN, "--workdir=new", "--config.start=poisoned"), "Permission denied"),
    ("a.safetensors", (*TRAIN, "--workdir=new", "--config.start=a.safetensors"), "can't be read"),
    ("poisoned", (*TRAIN, "--workdir=poisoned"), "Permission denied"),
)
QUICK = (READ_ONLY[0][1], READ_ONLY[2][1], READ_ONLY[-1][1], LOCKED[0][1], LOCKED[4][1])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(WORKDIRS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "configs").symlink_to(WORKDIRS.parents[2] / "configs")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.csv").write_text("image,caption\na.png,a cat\n")
    (tmp_path / "a.py").write_text("def get_config(arg=None): ...\n")
    save_file(random_values("open_clip", VARIANTS["ViT-test"]), tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "path", "words", "message"),
    [
        pytest.param(mode, *row, marks=() if row[1] in QUICK else pytest.mark.faults)
        for mode, rows in ((0o555, READ_ONLY), (0, LOCKED))
        for row in rows
    ],
)
def test_lacking_permission_is_one_line(
    mode: int,
    path: str,
    words: tuple[str, ...],
    message: str,
    files: Path,
    capsys: pytest.CaptureFixture,
):
    before = {*files.rglob("*")}
    with locked(files / path, mode):
        code = cli.main(words)
    shown = [line for line in capsys.readouterr().err.splitlines() if line[:10] == "cleanclip:"]
    assert code == 2 and len(shown) == 1 and message in shown[0], (code, shown)
    assert {*files.rglob("*")} == before


def test_rights_are_taken_for_a_while(tmp_path: Path):
    (tmp_path / "a").write_text("x")
    with locked(tmp_path / "a"), pytest.raises(PermissionError):
        (tmp_path / "a").read_text()
    assert (tmp_path / "a").read_text() == "x"
