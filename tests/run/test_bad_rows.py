"""A set with unreadable rows: trained through, every one of them named; too many end the run."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.small_run import small_config
from helpers.train import train
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.run.record import BadRows

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


def test_a_run_goes_through_and_names_each_bad_row_once(pairs: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    train(config(pairs, 0.2), workdir)
    rows = [json.loads(line) for line in (workdir / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == sorted(BAD)
    for row in rows:
        assert row["where"] == f"pairs.csv row {row['index'] + 1}"
        assert BAD[row["index"]] in row["reason"], row
    # A resumed run meets them again.
    again = BadRows(workdir, 0)
    again(3, "pairs.csv row 4", "met again")
    again(4, "pairs.csv row 5", "new")
    added = (workdir / "bad_rows.jsonl").read_text().splitlines()[len(rows) :]
    assert [json.loads(line)["index"] for line in added] == [4]


def test_a_line_torn_by_a_kill_is_not_appended_to(tmp_path: Path):
    (tmp_path / "bad_rows.jsonl").write_text('{"index": 1, "where": "a", "reason": "b"}\n{"ind')
    BadRows(tmp_path, 0)(2, "c", "d")
    rows = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [1, 2]


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
    assert len(said) == 1 and "more than max_bad_share allows" in said[0]
