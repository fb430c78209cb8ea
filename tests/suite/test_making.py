"""Cells made in their order, failures in a line; training and measuring are left out here.

tests/jobs/test_benchmark.py trains.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs.benchmark import run
from cleanclip_jax.suite import making
from cleanclip_jax.suite.making import Maker, short
from cleanclip_jax.suite.suites import CLEAN

SHARE = {"value": 0.123456, "interval": (0.01, 0.02), "of": 9, "definition": "x"}


@pytest.fixture
def maker(suite, store, tmp_path, monkeypatch):
    """One whose runs are names, and whose WaNet can't be."""
    trained: list[str] = []

    def train(runs):
        trained.extend(path.name for path in runs)
        return {path: UserError("no field") for path in runs if "wanet" in path.name}

    def evaluation(start, config):
        return {"figures": {name: SHARE for name in ("ca", "asr", "other")}}

    monkeypatch.setattr(making, "train_members", train)
    monkeypatch.setattr(making, "open_start", lambda path: SimpleNamespace(config=None))
    monkeypatch.setattr(making, "measure_run", evaluation)
    monkeypatch.setattr(Maker, "_by_pairs", lambda _, cell, names: {name: {} for name in names})
    monkeypatch.setattr(Maker, "_by_model", lambda _, cell, names: {name: {} for name in names})
    made = Maker(suite, store, tmp_path / "work", "cleanclip benchmark suite.py")
    return SimpleNamespace(maker=made, trained=trained)


def test_one_attack_fails_and_the_others_are_made(maker, store, suite):
    run(store, maker.maker, {}, None)
    for cell in suite.cells:
        if cell.places["attack"] == "wanet":
            # Its rows say so; RoCLIP trains the attack itself.
            assert "no field" in (store.failure(cell) or "")
        else:
            assert store.row(cell) is not None, cell.name
    # A floor and a poisoned model are trained once, though all depend on them.
    badnet = [name for name in maker.trained if "badnet" in name and "mmcl" not in name]
    assert len([name for name in badnet if "roclip" not in name]) == 2
    # Rebounds of the chosen rates: the made interval ends below 5 %.
    rebounds = [name for name in maker.trained if "rebound" in name]
    assert len(rebounds) == 4 and all("badnet" in name for name in rebounds)


def test_what_nobody_thought_of_ends_its_cells_alone(maker, store, suite, monkeypatch):
    def train(runs):
        if any("wanet" in path.name for path in runs):
            raise ZeroDivisionError("no pairs")
        return {}

    monkeypatch.setattr(making, "train_members", train)
    run(store, maker.maker, {}, None)
    failures = {cell.places["attack"]: store.failure(cell) for cell in suite.cells}
    assert failures["wanet"] == "ZeroDivisionError: no pairs" and failures["badnet"] is None


def test_what_is_selected_is_made_with_what_it_begins_with(maker, store, cell):
    only = {"defence": frozenset({"mmcl"}), "rate": frozenset({"0.001"}), "seed": frozenset("0")}
    tried = run(store, maker.maker, only | {"attack": frozenset({"badnet"})}, None)
    assert [one.kind for one in tried] == ["cleaned"]
    assert [name.split("-")[0] for name in maker.trained] == [
        "demo,_mini,_never_poisoned,_seed_0",
        "demo,_mini,_badnet,_seed_0",
        "demo,_mini,_badnet,_seed_0,_mmcl,_rate_0.001",
    ]
    assert store.row(cell("poisoned", attack="badnet", seed="0")) is None  # not measured


def test_no_cell_is_begun_after_the_limit(maker, store):
    assert run(store, maker.maker, {}, 0) == [] and not maker.trained


def test_the_figure_that_an_attack_names_is_its_asr(maker, store, suite, cell):
    badnet = cell("poisoned", attack="badnet", seed="0")
    attacks = {**suite.content["attacks"], "badnet": {"keys": [], "asr": "other"}}
    for name, there in (("other", True), ("nothing", False)):
        attacks["badnet"]["asr"] = name
        maker.maker.suite = replace(suite, content={**suite.content, "attacks": attacks})
        maker.maker.make([badnet])
        assert (store.row(badnet) is not None) == there
    assert "no figure 'nothing'" in (store.failure(badnet) or "")


def test_a_clean_model_has_no_asr(maker, store, cell, monkeypatch):
    monkeypatch.setattr(making, "measure_run", lambda *_: {"figures": {"ca": SHARE}})
    clean = cell("poisoned", attack=CLEAN, seed="0")
    maker.maker.make([clean])
    assert store.row(clean)["figures"] == {
        "ca": {"value": 0.12346, "interval": [0.01, 0.02], "of": 9}
    }


def test_a_cell_of_another_config_has_another_folder(maker, cell):
    at = {"attack": "badnet", "seed": "0", "defence": "mmcl"}
    one = cell("cleaned", **at, rate="0.001")
    other = replace(one, keys=(*one.keys, "train.steps=7"))
    folders = {maker.maker.workdir(each) for each in (one, other)}
    assert len(folders) == 2 and len({path.name.rpartition("-")[0] for path in folders}) == 1
    assert all(path.parent == Path(maker.maker.folder / "cells") for path in folders)


def test_a_figure_without_an_interval_is_kept():
    assert short({"value": None, "interval": None, "of": 0}) == {
        "value": None,
        "interval": None,
        "of": 0,
    }
