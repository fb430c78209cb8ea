"""Progressive removal: which pairs stay, and how long a run with them is."""

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from cleanclip_jax.config import load
from cleanclip_jax.errors import UserError
from cleanclip_jax.run.removal import Removal, staying
from cleanclip_jax.run.settings import resolve
from cleanclip_jax.run.stages import Stage


def rule(after: Any = (1, 3), share: float = 0.1, count: int = 105, **train: Any) -> Removal:
    config = load("configs/demo.py")
    config.train.batch_size, config.train.epochs = 10, 5
    with config.unlocked(), config.ignore_type():
        config.train.steps = None
        config.train.update(train)
        config.removal = ConfigDict({"after": after, "share": share})
    return Removal(resolve(config), count)


@pytest.mark.parametrize("share", [0.02, 0.11])
def test_what_stays_is_what_the_original_leaves(golden, share: float):
    g = golden("pools")
    scores = (g["removal/image"] * g["removal/text"]).sum(1).astype(float)
    expected = g[f"removal/fraction_{share}/kept"].tolist()
    assert staying(scores, np.arange(50), share).tolist() == expected


def test_lengths_follow_from_the_number_of_pairs():
    """105 pairs; 95 after epoch 1; 86 after epoch 3."""
    made = rule()
    parts = (Stage(0, 10), Stage(10, 19, 2, 2), Stage(19, 28, 3, 2), Stage(28, 36, 4, 4))
    assert made.stages == (*parts, Stage(36, 44, 5, 4))
    scores = np.arange(105.0)
    scores[3] = np.nan  # unreadable: it counts, and stays
    split = made.decide(scores, made.stages[1], None)
    assert np.flatnonzero(~split["chosen"]).tolist() == list(range(95, 105))
    split = made.decide(-scores, made.stages[3], split)
    assert np.flatnonzero(~split["chosen"]).tolist() == [0, 1, 2, *range(4, 10), *range(95, 105)]
    epochs = [made.order(split, stage) for stage in made.stages[3:]]
    for epoch in epochs:
        assert len(set(epoch)) == 80 and split["chosen"][epoch].all()
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("steps", [5, 10, 11, 30, 200])
def test_a_run_of_so_many_steps_ends_there(steps: int):
    made = rule(steps=steps)
    assert made.stages[-1].last == steps
    for stage in made.stages[1:]:
        split = {"chosen": np.arange(105) < 86}
        order = made.order(split, stage)
        assert split["chosen"][order].all() and len(order) == 10 * (stage.last - stage.first)


def test_too_few_pairs_and_settings_out_of_range_are_one_line():
    with pytest.raises(UserError, match="leaves 5 pairs after epoch 2, less than"):
        rule(after=(1, 2), share=0.8)
    with pytest.raises(UserError, match="begins each epoch anew"):
        rule(epochs=10_001, share=1e-6)
    with pytest.raises(UserError, match=r"config\.removal\.after is \(0,\)"):
        rule(after=(0,))
    with pytest.raises(UserError, match=r"config\.removal\.share is 1\.0"):
        rule(share=1.0)
