"""SafeCLIP's rule: the split, its growth, the order of an epoch, and the terms that count."""

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from cleanclip_jax.config import load
from cleanclip_jax.errors import UserError
from cleanclip_jax.run.optimizer import holding, warmup_cosine
from cleanclip_jax.run.phases import rule_of
from cleanclip_jax.run.safe import Safe, next_count, safe_probability
from cleanclip_jax.run.settings import resolve
from cleanclip_jax.run.stages import Stage
from cleanclip_jax.run.state import make_objective


def config_of(**keys: Any) -> ConfigDict:
    config = load("configs/safeclip.py")
    config.train.batch_size, config.train.epochs = 10, 10
    config.safe.warm_in_modal = 2
    with config.unlocked(), config.ignore_type():
        for key, value in keys.items():
            config.safe[key] = value
    return resolve(config)


def rule(count: int = 105, **keys: Any) -> Any:
    config = config_of(**keys)
    return rule_of(config, make_objective(config), count)


def test_splits_are_the_published_codes_but_for_the_far_left_tail(golden):
    g = golden("pools")
    for case in ("usual", "wide_safe"):
        expected = {k.rpartition("/")[2]: v for k, v in g.items() if f"split/{case}/" in k}
        scores = expected["similarity"].astype(float)
        published = rule(len(scores), order="probability")
        first, second = published.stages[1:3]
        split = published.decide(scores, first, None)
        np.testing.assert_array_equal(split["chosen"], expected["safe_first"])
        after = published.decide(scores, second, split)
        np.testing.assert_array_equal(after["chosen"], expected["safe_next"])
        ours = rule(len(scores)).decide(scores, first, None)
        # The lowest of all is safe in the published code.
        assert split["chosen"][scores.argmin()] == (case == "wide_safe")
        assert not ours["chosen"][scores.argmin()]
        low = scores < np.median(scores)
        np.testing.assert_array_equal(ours["chosen"][~low], split["chosen"][~low])


def test_probability_rises_with_the_score_above_the_smaller_mean():
    rng = np.random.default_rng(0)
    scores = np.sort(np.concatenate([rng.normal(0.05, 0.02, 300), rng.normal(0.25, 0.1, 500)]))
    assert safe_probability(scores, "probability")[0] > 0.9
    assert safe_probability(scores, "guarded")[0] == 0


def test_the_safe_ones_grow_by_whole_pairs_up_to_the_cap():
    assert [next_count(542, i, 800, 0.01, 0.85) for i in (0, 1, 2, 18)] == [542, 550, 558, 680]
    # 0.01 x 29 x 100 is 28.999999999999996 in float64.
    assert next_count(0, 29, 100, 0.01, 0.85) == 29
    assert next_count(90, 1, 100, 0.01, 0.85) == 85


def test_stages_cover_all_steps_and_each_epoch_has_as_many():
    made = rule()
    assert made.stages[0] == Stage(0, 30) and made.stages[1] == Stage(30, 40, 4, 4)
    assert [stage.epoch for stage in made.stages[1:]] == list(range(4, 11))
    assert made.stages[-1].last == 100 and made.held == (20, 30, 5e-6)
    phases = [made.resting(done, made.stages[0], None) for done in (1, 20, 21, 30)]
    assert phases == [{"crossed"}] * 2 + [{"nearest_in_modal"}] * 2
    assert [stage.split for stage in made.stages] == [0, *range(4, 11)]
    assert rule(warm_in_modal=2**31 - 1).stages == (Stage(0, 100),)
    assert rule(warm_cross=0, warm_in_modal=0).stages[0] == Stage(0, 10, 1, 1)


@pytest.mark.parametrize("steps", [25, 30, 34, 61])
def test_a_run_of_so_many_steps_ends_there(steps: int):
    config = config_of()
    with config.ignore_type():
        config.train.steps = steps
    made = rule_of(config, make_objective(config), 105)
    assert made.stages[-1].last == steps
    assert all(
        one.last == two.first for one, two in zip(made.stages, made.stages[1:], strict=False)
    )


def test_an_epoch_takes_risky_pairs_and_then_each_safe_one_once():
    made = rule()
    scores = np.linspace(0, 1, 105)
    scores[7] = np.nan
    stage = made.stages[1]
    split = made.decide(scores, stage, None)
    chosen = split["chosen"]
    order = made.order(split, stage)
    assert order.shape == (100,) and 7 not in order
    safe_steps = chosen.sum() // 10
    risky, safe = order[: 100 - 10 * safe_steps], order[100 - 10 * safe_steps :]
    assert chosen[safe].all() and len(set(safe)) == len(safe) and not chosen[risky].any()
    assert set(risky) <= set(np.flatnonzero(~chosen)) - {7}
    last_risky = int(stage.first + 10 - safe_steps)
    assert made.resting(last_risky, stage, split) == {"crossed"}
    assert made.resting(last_risky + 1, stage, split) == {"nearest_in_modal"}
    # Another epoch, another order; the same epoch, the same.
    np.testing.assert_array_equal(order, made.order(split, stage))
    assert (order != made.order(split, made.stages[2])).any()


@pytest.mark.parametrize("chosen", [0, 100, 105])
def test_an_epoch_of_one_kind_alone(chosen: int):
    made = rule()
    split = {"chosen": np.arange(105) < chosen, "probability": np.ones(105)}
    order = made.order(split, made.stages[1])
    assert order.shape == (100,)
    assert split["chosen"][order].all() == (chosen > 0)


def test_the_rate_is_one_cosine_but_for_the_warm_cross_epoch():
    whole: Any = warmup_cosine(5e-4, 10, 100)
    held: Any = holding(whole, 20, 30, 5e-6)
    for step in range(100):
        expected = 5e-6 if 20 <= step < 30 else float(whole(step))
        assert float(held(step)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"grow": 2.0}, r"config\.safe\.grow is 2\.0: it takes a number from 0 to 1"),
        ({"treshold": 0.5}, r"config\.safe: unknown 'treshold'.*'threshold'"),
        ({"order": "guraded"}, r"config\.safe\.order: unknown 'guraded'.*'guarded'"),
    ],
)
def test_settings_out_of_range_are_one_line(keys: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        config_of(**keys)


def test_terms_that_it_needs_and_pairs_that_it_splits():
    config = config_of()
    config.objective.crossed = 0.0
    with pytest.raises(UserError, match=r"give config\.objective\.crossed a weight"):
        Safe(config, make_objective(config), 100)
    config = config_of()
    config.train.epochs = 2**30
    with pytest.raises(UserError, match="begins each epoch anew, and 1073741824 are more than"):
        Safe(config, make_objective(config), 100)
    config = config_of()
    config.removal = ConfigDict({"after": (1,)})
    with pytest.raises(UserError, match=r"safe and config\.removal both choose"):
        rule_of(config, make_objective(config), 100)
    with pytest.raises(UserError, match="takes two or more"):
        rule().decide(np.full(105, np.nan), Stage(30, 40, 4, 4), None)
