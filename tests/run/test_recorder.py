"""What a run writes down: rows that can't be read, losses that aren't finite, boards."""

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_run import small_config, train
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.run import recorder as record
from cleanclip_jax.run.recorder import BadRows, Boards, Done, Recorder
from cleanclip_jax.workdir import Workdir

COUNT = 40
BAD = {3: "No such file", 11: "unreadable image", 17: "empty", 29: "no image format", 38: "empty"}


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CSV of forty pairs: pictures of every mode, odd captions, and the five rows of `BAD`."""
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pairs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    captions = {
        17: "",
        38: "   ",
        5: "!?! 7 ... 8",
        6: "word " * 2000,
        7: "z" * 10_000,
        8: "naïve café — ﬁ",
    }
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "caption"))
        for i in range(COUNT):
            picture = Image.fromarray(rng.integers(256, size=(24, 30, 3), dtype=np.uint8))
            mode = ("RGB", "L", "CMYK", "P", "1")[i % 5]
            ending = "tiff" if mode == "CMYK" else "png"
            data = io.BytesIO()
            picture.convert(mode).save(data, ending)
            content = data.getvalue()
            content = {11: content[: len(content) // 2], 29: b"<html>not found</html>"}.get(
                i, content
            )
            if i != 3:
                (folder / f"{i}.{ending}").write_bytes(content)
            writer.writerow((f"{i}.{ending}", captions.get(i, f"one{i} two{i} three")))
    return folder / "pairs.csv"


def config(pairs: Path, share: float):
    made = small_config()
    made.attack = None
    made.evaluation.data = None
    made.data.train = {"kind": "csv", "path": str(pairs)}
    made.data.max_bad_share = share
    made.objective.in_modal = 1.0
    made.train.batch_size = 8
    made.train.steps = 5  # of eight: each row is met once
    return made


@pytest.mark.slow
def test_a_run_goes_through_and_names_each_bad_row_once(pairs: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    train(config(pairs, 0.2), workdir)
    rows = [json.loads(line) for line in (workdir / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == sorted(BAD)
    for row in rows:
        assert row["where"] == f"pairs.csv row {row['index'] + 1}"
        assert BAD[row["index"]] in row["reason"], row
    # A resumed run meets them again.
    again = BadRows(Workdir(workdir), 0)
    again(3, "pairs.csv row 4", "met again")
    again(4, "pairs.csv row 5", "new")
    added = (workdir / "bad_rows.jsonl").read_text().splitlines()[len(rows) :]
    assert [json.loads(line)["index"] for line in added] == [4]


def test_a_line_torn_by_a_kill_is_not_appended_to(tmp_path: Path):
    (tmp_path / "bad_rows.jsonl").write_text('{"index": 1, "where": "a", "reason": "b"}\n{"ind')
    BadRows(Workdir(tmp_path), 0)(2, "c", "d")
    rows = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [1, 2]


@pytest.mark.slow
def test_too_many_are_one_line_and_exit_code_2(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    argv = [
        *("train", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}"),
        f"--config.data.train={{'kind': 'csv', 'path': '{pairs}'}}",
        *("--config.attack=None", "--config.evaluation.data=None", "--config.mesh.data=1"),
        *("--config.data.max_bad_share=0.05", "--config.train.batch_size=8"),
        *("--config.model.variant=ViT-test", "--config.train.steps=5"),
    ]
    assert cli.main(argv) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cleanclip:")]
    assert len(said) == 1 and "more than config.data.max_bad_share allows" in said[0]
    assert (tmp_path / "run/bad_rows.jsonl").read_text()  # also where they end the run at once


def test_a_step_that_is_not_finite_is_written_down_and_ends_the_run(tmp_path: Path):
    lines = Recorder(Workdir(tmp_path), 0, 100, log_every=5, batch_size=8)
    figures = {"loss": jnp.float32(np.inf), "gradient_norm": jnp.float32(1.0)}
    with lines, pytest.raises(UserError, match=r"not finite at step 2.*not_finite\.json"):
        lines.record(Done(2, figures, 0.0, np.arange(3)))
    facts = json.loads((tmp_path / "not_finite.json").read_text())
    assert facts == {"step": 2, "loss": "inf", "gradient_norm": 1.0, "index": [0, 1, 2]}
    assert read_lines(tmp_path / "metrics.jsonl")[0]["loss"] == "inf"
    with Recorder(Workdir(tmp_path), 0, 100, log_every=5, batch_size=8):
        assert not (tmp_path / "not_finite.json").exists()


def test_weights_and_biases_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'cleanclip-jax\[wandb\]'"):
        Boards(Workdir(tmp_path), 0, "backdoors", {})


def test_a_refusal_of_weights_and_biases_is_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise ValueError("no key\nlog in")

    wandb = SimpleNamespace(init=init, Settings=dict, Error=ValueError)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(UserError, match="Weights & Biases refuses: no key log in"):
        Boards(Workdir(tmp_path), 0, "backdoors", {})


def test_boards_load_no_pytorch(monkeypatch):
    """Which tensorboardX imports if it can, for longer than JAX takes."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("torch", "tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    assert record._tensorboardx().SummaryWriter and "torch" not in sys.modules
