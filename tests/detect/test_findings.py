"""What a scan leaves: scores by id, the highest, what to drop, figures where poisons are known."""

import csv
import json

import numpy as np
import pytest
from helpers.made_pairs import MadePairs, scan_of

from cleanclip_jax.data.scores import read_scores
from cleanclip_jax.data.subset import Subset, read_ids
from cleanclip_jax.detect.findings import SHAPE, summary
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json


def test_files_of_a_part_of_a_dataset_are_by_id(tmp_path):
    whole = MadePairs(320)
    planted = whole.plant([7, 99, 205, 300])
    part = Subset(whole, np.arange(10, 320))  # 7 is not in it
    poisoned = np.isin(part.ids(), planted)
    scan_of(part, tmp_path, poisoned=poisoned)
    results = read_json(tmp_path / "detect.json", SHAPE)
    assert results["poisons"] == 3 and results["dropped"] == 6 == len(
        read_ids(tmp_path / "drop.csv", part)
    )
    assert {99, 205, 300} <= set(read_ids(tmp_path / "drop.csv", whole).tolist())
    assert results["dropped_poisons"] == 3 == results["figures"]["slof"]["recall_at_5"]["count"]
    for name in ("slof", "kdist"):
        scores = read_scores(tmp_path / "scores" / f"{name}.parquet", whole)
        assert np.isnan(scores[:10]).all() and np.isfinite(scores[10:]).all()
        bins = results["histograms"][name]
        assert sum(bins["all"]) == 310 and sum(bins["poisons"]) == 3
    with (tmp_path / "top.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 50 and {99, 205, 300} <= {int(row["id"]) for row in rows[:6]}
    for row in rows:
        assert whole.captions[int(row["id"])] == row["caption"]
        assert row["poisoned"] == str(int(int(row["id"]) in planted))
    shown = summary(tmp_path)
    assert "310 of 310 pairs scored by a run" in shown and "warning: a warning" in shown
    assert "3 poisons are known" in shown and "100.0 (3/3)" in shown


def test_without_a_truth_there_are_no_figures(tmp_path):
    scan_of(MadePairs(200), tmp_path)
    results = read_json(tmp_path / "detect.json", SHAPE)
    assert results["figures"] == {} and results["poisons"] is None
    assert results["dropped_poisons"] is None and "known" not in summary(tmp_path)
    (tmp_path / "detect.json").write_text(json.dumps({**results, "histograms": 3}))
    with pytest.raises(UserError, match=r"detect.json: histograms is a whole number, not an obj"):
        summary(tmp_path)
