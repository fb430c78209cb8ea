"""The tables of made figures."""

import pytest

from cleanclip_jax.suite.leaderboard import Board
from cleanclip_jax.suite.suites import CLEAN

COLUMNS = ("defence", "backdoor gone", "CA", "worst CA", "against", "CA gained")


@pytest.fixture
def board(store):
    return Board(store, "demo", "mini")


@pytest.fixture
def filled(board, put, cell, store, suite):
    """MMCL holds against both attacks, RoCLIP against one; of wanet one seed was run."""
    for attack, seed, ca in (("badnet", "0", 50), ("badnet", "1", 54), ("wanet", "0", 40)):
        at = {"attack": attack, "seed": seed}
        put(cell("poisoned", **at), ca=ca - 10, asr=99, floor_asr=3)
        put(cell("cleaned", **at, defence="mmcl", rate="0.001"), ca=ca + 9, asr=60, pa=20)
        best = cell("cleaned", **at, defence="mmcl", rate="0.003")
        put(best, ca=ca, asr=2, pa=30)
        put(cell("cleaned", **at, defence="roclip"), ca=ca + 3, asr=3 if ca == 50 else 90, pa=9)
        if ca == 50:
            put(suite.rebound(best), ca=51, asr=35)
    return board


def rows_of(table):
    columns, rows = table
    return [dict(zip(columns, row, strict=True)) for row in rows]


def test_by_defence(filled):
    first, second = rows_of(filled.by_defence())
    assert first["defence"] == "mmcl" and first["backdoor gone"] == "3 of 3"
    # Seed 0: (50 + 40) / 2; seed 1: 54 alone.
    assert first["CA"][0] == "49.5" and first["CA"][1].startswith("[")
    assert first["worst CA"] == ("40.0",) and first["against"] == "wanet"
    assert first["CA gained"] == "+10.0" and first["PA"] == ("30.0",)
    assert first["ASR, worst"] == ("2.0",) and first["rebound ASR, worst"] == ("35.0",)
    assert (first["pairs"], first["TFLOP"], first["seconds"]) == ("640", "3", "2")
    assert second["backdoor gone"] == "1 of 3" and second["worst CA"] == "never"
    assert second["against"] == "badnet, wanet" and second["rebound ASR, worst"] == ""


def test_by_attack(filled):
    badnet, wanet = rows_of(filled.by_attack())
    assert badnet["attack"][0] == "badnet" and badnet["attack"][0].to == "demo-mini-badnet"
    assert badnet["poisoned CA"][0] == "42.0" and badnet["floor"][0] == "3.0"
    assert badnet["mmcl"][0] == "52.0" and badnet["mmcl"][1].startswith("[26.6")  # t = 12.7
    assert badnet["roclip"] == ("53.0", "[52.0, 54.0]", "1 of 2 seeds")
    assert wanet["roclip"] == ("never",) and wanet["mmcl"] == ("40.0", "[39.0, 41.0]")


def test_an_attack_that_did_not_take_counts_for_no_defence(filled, put, cell):
    put(cell("poisoned", attack="wanet", seed="0"), ca=30, asr=9, floor_asr=4)
    again = Board(filled.store, "demo", "mini")
    first, _ = rows_of(again.by_defence())
    assert again.weak == ["wanet"] and first["backdoor gone"] == "2 of 2"
    assert first["worst CA"] == ("52.0",) and first["against"] == "badnet"
    assert rows_of(again.by_attack())[1]["mmcl"] == ("40.0", "[39.0, 41.0]")


def test_what_was_not_run_is_empty(board, put, cell):
    assert board.by_defence()[1] == board.by_detector()[1] == []
    badnet, _ = rows_of(board.by_attack())
    assert badnet == {"attack": "badnet", "poisoned CA": (), "ASR": (), "floor": ()} | {
        "mmcl": "",
        "roclip": "",
    }
    # A defence of which one rate was run has not been judged.
    put(cell("cleaned", attack="badnet", seed="0", defence="mmcl", rate="0.001"), ca=60, asr=1)
    assert rows_of(board.by_attack())[0]["mmcl"] == ""


def test_by_detector(board, put, cell):
    scan = cell("detector", attack="badnet", seed="0", detector="slof")
    put(scan, auroc=90, tpr_at_fpr_5=70, tpr_at_fpr_1=50)
    (row,) = rows_of(board.by_detector())
    assert row["AUROC"] == ("90.0", "[89.0, 91.0]") and row["at 1 % FPR"][0] == "50.0"
    # A search for small patches: of the models, in truth.
    for attack, seed, size in ((CLEAN, "0", 40), (CLEAN, "1", 10), ("badnet", "0", 20)):
        put(cell("detector", attack=attack, seed=seed, detector="decree"), share=size)
    models = next(row for row in rows_of(board.by_detector()) if row["detector"] == "decree")
    assert models["AUROC"] == ("50.0",) and models["seeds"] == "1 models, 2 clean"
