"""Retuning and rebound: so many poisons and no more, the same training otherwise, resumed."""

import numpy as np
import pytest

from cleanclip_jax.attacks.manifest import Plan
from cleanclip_jax.errors import UserError
from cleanclip_jax.persist import tuning
from cleanclip_jax.persist.tuning import (
    few_poisons,
    measure_tuned,
    poisons,
    steps_of_epoch,
    tuning_config,
)


@pytest.mark.parametrize("seed", [0, 1])
def test_so_many_poisons_are_among_the_pairs_that_are_trained_on(make_trial, seed):
    trial = make_trial()
    plan = Plan.load(poisons(trial, seed)["manifest"], trial.source)
    assert len(plan) == len(plan.table) == trial.settings.poisons
    assert len(trial.source) < len(trial.source.root())  # of which most are left out
    for index in plan.index.tolist():
        poison = plan.poison_at(index)
        assert poison is not None and poison.caption == "a handwritten seven."
    assert plan.trigger.config["size"] == 4
    other = few_poisons(trial, 1 - seed)
    assert other.table["index"].to_pylist() != plan.table["index"].to_pylist()
    assert plan == few_poisons(trial, seed)


def test_each_part_has_as_many(make_trial):
    trial = make_trial()
    attack = trial.config.evaluation.attack.to_dict()
    part = {key: attack.pop(key) for key in ("trigger", "target", "templates", "count")}
    other = {**part, "target": "one", "trigger": {"name": "checkerboard", "size": 4}}
    with trial.config.unlocked(), trial.config.ignore_type():
        trial.config.evaluation.attack = {**attack, "parts": [part, other]}
    plan = few_poisons(trial, 0).on(trial.source)
    assert [len(plan.rows_of(number)) for number in range(2)] == [3, 3]


def test_more_poisons_than_pairs_is_one_line(make_trial):
    with pytest.raises(UserError):
        few_poisons(make_trial(poisons=100), 0)


def test_the_two_differ_by_the_poisons_alone(make_trial):
    trial = make_trial()
    start = trial.starts["cleaned"]
    clean = tuning_config(trial, start, 3e-4, 5, None).to_dict()
    poisoned = tuning_config(trial, start, 3e-4, 5, {"manifest": "x"}).to_dict()
    assert {key for key in clean if clean[key] != poisoned[key]} == {"attack"}
    assert clean["objective"]["in_modal"] == 0 and clean["objective"]["cross_modal"] == 1
    assert clean["optimizer"]["moments"] == "fresh" and clean["optimizer"]["learning_rate"] == 3e-4
    assert clean["seed"] == 5 and clean["start"] == str(start.path)
    # 70 pairs, 32 at once: two steps an epoch, saved after the first and the second.
    assert steps_of_epoch(trial) == 2
    assert clean["train"]["steps"] == 4
    assert clean["train"]["checkpoint_every"] == 2 and clean["train"]["keep"] == 2


def test_a_batch_larger_than_the_pairs_is_one_line(make_trial):
    with pytest.raises(UserError, match="batch_size 512 is larger than the data: 70 pairs"):
        steps_of_epoch(make_trial(overrides={"train.batch_size": "512"}))


def test_retuning_is_measured_at_each_epoch_and_done_once(make_trial, say, monkeypatch):
    trial = make_trial(floor=False)
    measure_tuned(trial, "retune", say)
    assert [(row["at"], row["rate"], row["seed"]) for row in trial.rows] == [
        (1, 1e-3, 0),
        (2, 1e-3, 0),
    ]
    first, last = (row["figures"] for row in trial.rows)
    assert first["asr"]["of"] == last["asr"]["of"] > 0
    run = trial.folder / "runs/retune,cleaned,rate=0.001,seed=0"
    assert len(Plan.load(run / "poison.parquet", trial.source)) == 3
    assert not (run / "checkpoints").exists()
    monkeypatch.setattr(tuning, "train_members", lambda runs: pytest.fail("trained again"))
    measure_tuned(make_trial(floor=False), "retune", say)


@pytest.mark.slow
def test_both_models_are_tuned_with_every_seed(make_trial, say):
    trial = make_trial(seeds=(0, 1), epochs=(1,))
    measure_tuned(trial, "rebound", say)
    named = [(row["model"], row["seed"]) for row in trial.rows]
    assert named == [(name, seed) for name in ("cleaned", "floor") for seed in (0, 1)]
    run = trial.folder / "runs/rebound,cleaned,rate=0.001,seed=0"
    assert not (run / "poison.parquet").exists()
    assert np.isfinite([row["figures"]["asr"]["value"] for row in trial.rows]).all()
