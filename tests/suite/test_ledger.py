"""benchmark.json: merged by digest, chosen by the upper end, written whole."""

import csv
import json

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.suite.cells import digest_of
from cleanclip_jax.suite.ledger import Store, check_folder, groups, is_gone

AT = {"attack": "badnet", "seed": "0", "defence": "mmcl"}


def test_the_upper_end_of_the_interval_decides():
    def row(low, high):
        return {"figures": {"asr": {"value": 0.045, "interval": [low, high], "of": 9}}}

    assert is_gone(row(0.03, 0.05)) and not is_gone(row(0.03, 0.0501))
    assert not is_gone({"figures": {}})


def test_the_most_accurate_rate_without_a_backdoor_is_chosen(store, put, cell):
    low, high = (cell("cleaned", **AT, rate=rate) for rate in ("0.001", "0.003"))
    put(low, ca=60, asr=30)
    assert store.chosen([low, high]) is None
    put(high, ca=50, asr=2)
    assert store.chosen([low, high]) == high
    put(low, ca=60, asr=4)
    assert store.chosen([low, high]) == low


def test_a_rebound_waits_for_every_rate(store, put, cell, suite):
    low, high = (cell("cleaned", **AT, rate=rate) for rate in ("0.001", "0.003"))
    put(low, ca=60, asr=2)
    assert list(store.rebounds()) == []
    put(high, ca=61, asr=3)
    assert list(store.rebounds()) == [suite.rebound(high)]


def test_figures_are_carried_from_folder_to_folder(store, put, cell, suite, tmp_path):
    low, high = (cell("cleaned", **AT, rate=rate) for rate in ("0.001", "0.003"))
    put(low, ca=60, asr=2)
    store.rows[digest_of(high)] = {**store.rows[digest_of(low)], "figures": {}, "error": "no disk"}
    store.rows["f" * 64] = store.rows[digest_of(low)]  # of a suite of another time
    store.write()
    merged = Store(suite, tmp_path / "other", [tmp_path / "work/benchmark.json"])
    assert merged.row(low) == store.row(low)
    assert merged.row(high) is None and merged.failure(high) == "no disk"
    assert "f" * 64 in merged.rows
    # What was run goes before what failed, whichever is read first.
    merged.put(high, store.rows[digest_of(low)])
    merged.write()
    for one, other in (("work", "other"), ("other", "work")):
        both = Store(suite, tmp_path / one, [tmp_path / other / "benchmark.json"])
        assert both.row(high) is not None


def test_the_table_has_a_line_a_cell(store, put, cell, tmp_path):
    put(cell("cleaned", **AT, rate="0.001"), ca=60, asr=2)
    put(cell("detector", attack="badnet", seed="0", detector="slof"), auroc=90)
    store.write()
    with (tmp_path / "work/benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["defence"], row["detector"]) for row in rows] == [
        ("cleaned", "mmcl", ""),
        ("detector", "", "slof"),
    ]
    assert rows[0]["ca"] == "0.6" and rows[1]["auroc"] == "0.9" and float(rows[0]["flops"]) == 3e12


def test_a_file_that_is_no_benchmark_is_refused(suite, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"suite": "a", "cells": {"d": {"at": []}}}))
    with pytest.raises(UserError, match=r"cells\.d"):
        Store(suite, tmp_path / "new", [tmp_path / "x.json"])
    with pytest.raises(UserError, match="holds no benchmark"):
        check_folder(tmp_path)


def test_groups_are_a_defences_rates(suite):
    sizes = [len(each) for each in groups(suite.cells) if each[0].kind == "cleaned"]
    assert sorted(sizes) == [1] * 4 + [2] * 4
