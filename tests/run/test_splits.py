"""Splits: written whole, read again, never made a second time; runs with them go on exactly."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fault_runs import figures, state
from helpers.few_pairs import few, killed, killed_at
from helpers.small_run import train
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.run import splits
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.run.splits import read_split
from cleanclip_jax.workdir import Workdir

pytestmark = pytest.mark.usefixtures("strict_transfers")


def safe(folder: Path) -> ConfigDict:
    """Epochs of two steps: in-modal, crossed, and two with a split."""
    config = few(folder, 8)
    with config.unlocked(), config.ignore_type():
        config.objective.cross_modal = 0.0
        config.objective.nearest_in_modal = ConfigDict({"weight": 1.0, "pool": 16})
        config.objective.crossed = 1.0
        config.views.first = config.views.image = "strong"
        config.safe = ConfigDict({"warm_in_modal": 1, "threshold": 0.5, "grow": 0.05})
    return config


def same_runs(one: Path, other: Path) -> None:
    assert figures(one) == figures(other) and state(one) == state(other)
    names = [sorted(path.name for path in (each / "splits").iterdir()) for each in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (one / "splits" / name).read_bytes() == (other / "splits" / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[ConfigDict, Path]:
    folder = tmp_path_factory.mktemp("safe")
    config = safe(folder)
    train(config, folder / "run")
    return config, folder / "run"


@pytest.mark.slow
def test_safeclip_trains_scores_and_splits(whole: Any):
    _, workdir = whole
    terms = [{"nearest_in_modal", "crossed"} & set(row) for row in figures(workdir)]
    assert terms[:4] == [{"nearest_in_modal"}] * 2 + [{"crossed"}] * 2
    assert figures(workdir)[2]["learning_rate"] == pytest.approx(5e-6)
    with (
        np.load(workdir / "splits" / "3.npz") as third,
        np.load(workdir / "splits/4.npz") as fourth,
    ):
        for number, split in ((3, third), (4, fourth)):
            assert np.isfinite(split["scores"]).all() and np.ptp(split["scores"]) > 0
            steps = int(split["chosen"].sum()) // 16
            first = 2 * (number - 1)
            expected = [{"nearest_in_modal"}] * (2 - steps) + [{"crossed"}] * steps
            assert terms[first : first + 2] == expected
        count = min(int(third["chosen"].sum()) + 1, 27)
        assert fourth["chosen"].sum() == count and fourth["base"] == third["chosen"].sum()


@pytest.mark.faults
def test_killed_in_each_phase_and_between_score_and_split(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, workdir = whole
    torn = tmp_path / "torn"

    def run() -> None:
        train(config, torn)

    for step in (2, 4):
        killed_at(step, config, torn, monkeypatch)
    # At the boundary: before the scores, between them and the file, and after that.
    killed(run, monkeypatch, splits, "pair_scores", lambda *_: True)
    assert not (torn / "splits").exists()
    killed(run, monkeypatch, Workdir, "write", lambda self, name, _: "splits/" in name)
    assert not (torn / "splits/3.npz").exists()
    killed(run, monkeypatch, splits, "read_split", lambda *_: True)
    written = (torn / "splits" / "3.npz").stat().st_mtime_ns
    for step in (6, 7, 8):
        killed_at(step, config, torn, monkeypatch)
    run()
    assert (torn / "splits" / "3.npz").stat().st_mtime_ns == written
    same_runs(workdir, torn)


@pytest.mark.faults
def test_a_stage_is_taken_up_in_its_middle(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, workdir = whole
    config = config.copy_and_resolve_references()
    config.train.checkpoint_every = 1
    killed_at(6, config, tmp_path / "torn", monkeypatch)  # 5 is saved: the first of epoch 3
    split = tmp_path / "torn/splits/3.npz"
    split.rename(tmp_path / "3.npz")
    with pytest.raises(UserError, match=r"splits/3\.npz is not there: bring it back"):
        train(config, tmp_path / "torn")
    with np.load(tmp_path / "3.npz") as arrays:
        other = dict(arrays)
    np.savez(split, **{**other, "checkpoint": "0" * 64})
    with pytest.raises(UserError, match="is a split by another checkpoint"):
        train(config, tmp_path / "torn")
    shutil.copy(tmp_path / "3.npz", split)
    train(config, tmp_path / "torn")
    assert figures(tmp_path / "torn") == figures(workdir)


@pytest.fixture
def run_and_split(tmp_path: Path) -> tuple[Workdir, Any, dict[str, np.ndarray]]:
    workdir = Workdir(tmp_path / "run")
    run = check_run(safe(tmp_path), workdir)
    split: dict[str, Any] = {"scores": np.zeros(32), "chosen": np.ones(32, bool)}
    split |= {"probability": np.ones(32), "base": np.int64(32)}
    split |= {"checkpoint": "ab", "fingerprint": run.source.fingerprint}
    (tmp_path / "run/splits").mkdir(parents=True)
    return workdir, run, split


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({}, None),
        ({"fingerprint": "cd"}, "is a split by another pairs"),
        ({"checkpoint": "cd"}, r"another checkpoint \(cd, not ab\)"),
        ({"chosen": np.ones(31, bool)}, r"no split of these 32 pairs \(chosen is bool\[31\]\)"),
        ({"probability": np.ones(3)}, r"probability is float64\[3\]"),
        ({"base": np.float64(3)}, r"base is float64\[\]"),
        ({"base": None}, "no split of these 32 pairs"),
        ({"scores": np.zeros(32, "f4")}, r"scores is float32\[32\]"),
        ({"chosen": np.array([{}] * 32)}, "no split of these 32 pairs"),
        ({"chosen": None}, "no split of these 32 pairs"),
    ],
)
def test_a_split_file_of_other_data_or_another_checkpoint_is_one_line(
    run_and_split: Any, other: dict[str, Any], message: str | None
):
    workdir, run, split = run_and_split
    arrays = {key: value for key, value in (split | other).items() if value is not None}
    np.savez(workdir / "splits/3.npz", **arrays)
    if message is None:
        assert read_split(workdir, run, "splits/3.npz", "ab")["chosen"].all()
        return
    with pytest.raises(UserError, match=message) as error:
        read_split(workdir, run, "splits/3.npz", "ab")
    assert "\n" not in str(error.value)


def test_a_torn_or_compressed_split_file_is_one_line(run_and_split: Any):
    workdir, run, split = run_and_split
    path = workdir / "splits/3.npz"
    np.savez(path, **split)
    data = path.read_bytes()
    for bad in (b"", data[:200], b"PK" + b"\0" * 50, data[: len(data) // 2]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="no split of these 32 pairs"):
            read_split(workdir, run, "splits/3.npz", "ab")
    np.savez_compressed(path, **split | {"scores": np.zeros(10**6)})
    with pytest.raises(UserError, match="it is compressed"):
        read_split(workdir, run, "splits/3.npz", "ab")


@pytest.mark.slow
def test_removal_trains_on_what_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = few(tmp_path, 4, count=40)
    with config.unlocked(), config.ignore_type():
        config.removal = ConfigDict({"after": [1], "share": 0.2})
    train(config, tmp_path / "run")
    with np.load(tmp_path / "run/splits/2.npz") as split:
        assert split["chosen"].sum() == 32
        assert split["scores"][~split["chosen"]].min() >= split["scores"][split["chosen"]].max()
