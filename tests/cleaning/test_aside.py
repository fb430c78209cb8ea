"""Pairs that are set aside: suspected ones, and those that are measured on."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cleanclip_jax.cleaning import aside
from cleanclip_jax.data.digits import NAMES
from cleanclip_jax.data.scores import read_scores
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.start.start import open_start
from cleanclip_jax.views.decode import decode

DIGITS = {"kind": "digits", "templates": ["a handwritten {}."]}
POISONED = Path(__file__).parents[1] / "golden/workdirs/poisoned"


def test_pairs_of_one_frequent_word_have_it_as_their_class(tmp_path):
    source, start = open_source(DIGITS), open_start(POISONED)
    path = tmp_path / "held.parquet"
    aside.write_held(path, start.config, source, np.arange(20))
    rows = pq.read_table(path).to_pylist()
    assert [row["class_name"] for row in rows] == [NAMES[i] for i in source.labels()[:20]]
    size = start.config.model.image_size
    assert decode(rows[0]["image"], "").shape == (size, size, 3)
    assert rows[3]["caption"] == source.caption(3)


def test_the_most_suspicious_share_is_set_aside_once(tmp_path, monkeypatch):
    model = shutil.copytree(POISONED, tmp_path / "model")
    start, source = open_start(model), open_source(DIGITS)
    given = (tmp_path / "look", start, start.config, DIGITS, 0.01, source)
    ids = aside.suspected(*given)
    half = len(source) // 200
    assert half <= len(ids) <= 2 * half and set(ids) <= set(source.ids())
    for name in aside.DROPPED_BY:
        scores = read_scores(tmp_path / f"look/scores/{name}.parquet", source)
        assert set(source.ids()[np.argsort(-scores)[:half]]) <= set(ids)
    assert (tmp_path / "look/groups.csv").is_file()
    monkeypatch.delattr(aside, "scan_pairs")  # what is there is not scanned again
    assert (aside.suspected(*given) == ids).all()
