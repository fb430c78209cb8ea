"""Files of scores: one format, checked; the lowest stay, and what goes is counted."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.plan import make_plan
from cleanclip_jax.config import check, load, override
from cleanclip_jax.data.mixture import mix
from cleanclip_jax.data.scores import keep_lowest, lowest, read_scores, write_scores
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import Subset, read_ids, select
from cleanclip_jax.errors import UserError

NAN = float("nan")


def whole(count: int = 20) -> Pictures:
    captions = [f"number {i}" for i in range(count)]
    return Pictures(captions, "a" * 64, [i % 2 for i in range(count)], ("cat", "dog"))


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_scores_are_read_as_they_were_written_by_id(ending: str, tmp_path: Path):
    source, path = whole(6), tmp_path / f"scores.{ending}"
    write_scores(
        path, np.array([4, 0, 2, 1]), np.array([1e-300, NAN, -3.5, 1 / 3]), source.fingerprint
    )
    expected = [NAN, 1 / 3, -3.5, NAN, 1e-300, NAN]
    np.testing.assert_array_equal(read_scores(path, source), expected)
    part = Subset(source, np.array([1, 4, 5]))
    np.testing.assert_array_equal(read_scores(path, part), [1 / 3, 1e-300, NAN])
    assert sorted(read_ids(path, source).tolist()) == [0, 1, 2, 4]
    doubled = mix({"a": (source, 2)})
    write_scores(path, np.arange(12), np.arange(12), doubled.fingerprint)
    assert read_scores(path, doubled).tolist() == [*range(12)]


def test_other_programs_tables_are_read(tmp_path: Path):
    """Whole numbers, float32, other columns, NaN as pandas writes it: nothing between commas."""
    source, prints = whole(4), ["a" * 64] * 3
    for scores in (pa.array([5, 1, None]), pa.array([5.0, 1.0, NAN], pa.float32())):
        table = pa.table({"note": ["x"] * 3, "score": scores, "id": [3, 1, 0]})
        table = table.append_column("fingerprint", [prints])
        pq.write_table(table, tmp_path / "scores.parquet")
        pa_csv.write_csv(table, tmp_path / "scores.csv")
        for name in ("scores.parquet", "scores.csv"):
            np.testing.assert_array_equal(read_scores(tmp_path / name, source), [NAN, 1, NAN, 5])
    about = {"detector": "dao"}
    path = tmp_path / "made.parquet"
    write_scores(path, np.arange(2), np.zeros(2), source.fingerprint, about)
    assert (pq.read_schema(path).metadata or {})[b"detector"] == b"dao"


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        ([0, 1], [0.5, float("inf")], "the score of id 1 is infinite: give a number, or NaN"),
        ([0, 1], ["high", "low"], "its scores are string: give numbers"),
        ([0, 1], [True, False], "its scores are bool"),
        ([0, 1, 0], [1.0, 2.0, 1.0], "id 0 has several scores"),
        ([0, 20], [1.0, 2.0], "id 20 is outside the dataset, whose ids are 0 to 19"),
        ([0.5, 1], [1.0, 2.0], "its ids are double"),
        ([0, None], [1.0, 2.0], "its ids are int64 or missing"),
        ([0, 1], [[1.0], [2.0]], "its scores are list"),
        ([0, 1], None, r"no file of scores: .*column 'id' and a column 'score'"),
        ([0, 1], [None, NAN], "none of the 20 records has a score"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    ids: list, scores: list | None, message: str, tmp_path: Path
):
    table = pa.table({"id": ids, "fingerprint": ["a" * 64] * len(ids)})
    if scores is not None:
        table = table.append_column("score", pa.array(scores))
    pq.write_table(table, tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=message) as error:
        keep_lowest(whole(), tmp_path / "scores.parquet", 0.5, "drop")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_what_cannot_be_written_is_refused(tmp_path: Path):
    for ids, scores, message in (
        ([0, 1], [0.0, -np.inf], "score of id 1 is infinite"),
        ([2, 2], [0.0, 1.0], "id 2 has several"),
    ):
        with pytest.raises(UserError, match=message):
            write_scores(tmp_path / "scores.csv", np.array(ids), np.array(scores), "a" * 64)
    assert not any(tmp_path.iterdir())


def test_scores_of_other_data_are_refused(tmp_path: Path):
    write_scores(tmp_path / "scores.parquet", np.arange(3), np.zeros(3), "b" * 64)
    with pytest.raises(UserError, match="of the dataset bbbbbbbbbbbb, and this is aaaaaaaaaaaa"):
        read_scores(tmp_path / "scores.parquet", whole())


def test_the_lowest_are_a_share_of_those_that_have_a_score():
    scores = np.array([3.0, 1.0, NAN, 1.0, 2.0, 1.0])
    assert np.flatnonzero(lowest(scores, 0.4)).tolist() == [1, 3]  # of equal ones the first
    assert np.flatnonzero(lowest(-scores, 0.4)).tolist() == [0, 4]
    assert np.flatnonzero(lowest(scores, 1.0)).tolist() == [0, 1, 3, 4, 5]
    for share, count in ((0.29, 29), (0.57, 57), (0.999, 99), (1e-5, 0)):
        assert lowest(np.arange(100.0), share).sum() == count


def test_the_lowest_scores_stay_and_poisons_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    source = whole()
    attack = {"trigger": {"name": "badnet", "size": 3}, "target": "cat", "count": 5}
    plan = make_plan(attack, source, 16)
    scores = np.zeros(20)
    scores[plan.index[:4]] = 1.0  # one poison is not seen
    clean = np.setdiff1d(np.arange(20), plan.index)
    scores[clean[0]] = NAN
    path = str(tmp_path / "scores.parquet")
    write_scores(path, np.arange(20), scores, source.fingerprint)
    for keep, left, dropped in (
        ({"scores": path, "share": 0.8}, 15, ["15 lowest are left and 4 dropped", "1 without"]),
        ({"scores": path, "share": 0.8, "unscored": "keep"}, 16, ["without a score are left"]),
        ({"scores": path, "share": 1}, 19, ["19 lowest are left and 0 dropped"]),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            part = select(source, keep, None)
            again = plan.on(part)
        assert len(part) == left and all(words in caplog.messages[0] for words in dropped)
        poisons = 1 if keep["share"] == 0.8 else 5
        assert caplog.messages[1] == (
            f"{poisons} of the plan's 5 poisons are among the data, and {5 - poisons} were filtered"
            " out"
        )
        assert len(again) == poisons


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"share": 0.5}, "config.data.keep.scores is missing"),
        ({"scores": "s.csv"}, "config.data.keep.share is missing"),
        ({"scores": "s.csv", "share": 0}, "share is 0: it takes a number above 0 to 1"),
        ({"scores": "s.csv", "share": 90}, "share is 90"),
        ({"scores": "s.csv", "share": 0.5, "unscored": "maybe"}, "unknown 'maybe'"),
        ({"scores": "s.csv", "shares": 0.5}, "unknown 'shares'. Did you mean 'share'"),
        ({"scores": "nowhere.csv", "share": 0.5}, "nowhere.csv: No such file"),
        (["scores.csv"], "keep is \\['scores.csv'\\]: it takes a text or a dictionary"),
    ],
)
def test_a_keep_that_is_wrong_is_one_line(keep: Any, message: str, write_csv: Callable):
    with pytest.raises(UserError, match=message):
        open_source({"kind": "csv", "path": str(write_csv(4)), "keep": keep})


def test_a_config_keeps_by_scores(tmp_path: Path, write_csv: Callable):
    config = {"kind": "csv", "path": str(write_csv(12))}
    source, path = open_source(config), str(tmp_path / "scores.csv")
    write_scores(path, np.arange(12), np.arange(12)[::-1], source.fingerprint)
    keep = {"scores": path, "share": 0.5}
    part = open_source({**config, "keep": keep})
    assert part.ids().tolist() == [6, 7, 8, 9, 10, 11]
    sources = {"one": {**config, "keep": keep}, "two": config}
    mixed = open_source({"kind": "mixture", "sources": sources})
    assert mixed.ids().tolist() == [6, 7, 8, 9, 10, 11, *range(12, 24)]


def test_the_share_is_a_key_that_a_command_sets_and_a_sweep_runs_over():
    config = load("configs/cleanclip.py")
    override(config, "data.train.keep", "{'scores': 'scores.csv', 'share': 0.9}")
    override(config, "data.train.keep.share", "0.8")
    override(config, "optimizer.weight_decay", "100")  # heavy decay
    check(config)
    assert config.data.train.to_dict()["keep"] == {"scores": "scores.csv", "share": 0.8}
    assert config.optimizer.weight_decay == 100
