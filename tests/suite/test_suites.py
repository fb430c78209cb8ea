"""The cells of a suite: which there are, in which order, and what starts from what."""

from dataclasses import replace

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.suite.suites import CLEAN, open_suite, read_selection


def test_a_suites_cells(suite):
    kinds = [cell.kind for cell in suite.cells]
    # Of two seeds: three models, three cleanings and a scan of each attack, three of models.
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "poisoned": 6,
        "cleaned": 12,
        "detector": 10,
    }
    assert len(set(suite.cells)) == len(suite.cells)


def test_what_is_first_comes_first_and_then_seed_by_seed(suite):
    names = [(cell.places["attack"], cell.places["seed"]) for cell in suite.cells]
    assert names[0] == ("wanet", "0") and set(names[:6]) == {("wanet", "0")}
    seeds = [seed for _, seed in names[6:]]
    assert seeds == sorted(seeds)


def test_a_cleaned_model_begins_with_the_poisoned_one(suite, cell):
    at = {"attack": "badnet", "seed": "1"}
    poisoned, cleaned = cell("poisoned", **at), cell("cleaned", **at, defence="mmcl", rate="0.003")
    assert cleaned.start == poisoned and "start={start}" in cleaned.keys
    assert cleaned.spec == "configs/demo.py:mmcl"
    assert {"seed=1", "optimizer.learning_rate=0.003"} < set(cleaned.keys)
    floor = cell("poisoned", attack=CLEAN, seed="1")
    assert poisoned.floor == floor and floor.floor is None
    assert "attack=None" in floor.keys and "evaluation.floor={floor}" in poisoned.keys


def test_a_defence_without_a_config_is_the_poisoned_run_trained_so(cell):
    at = {"attack": "badnet", "seed": "0"}
    poisoned, trained = cell("poisoned", **at), cell("cleaned", **at, defence="roclip")
    assert trained.start is None and trained.spec == poisoned.spec
    assert trained.keys[: len(poisoned.keys)] == poisoned.keys
    assert "objective.matched=1.0" in trained.keys


def test_rates_are_made_together(cell):
    at = {"attack": "badnet", "seed": "0", "defence": "mmcl"}
    one, other = (cell("cleaned", **at, rate=rate) for rate in ("0.001", "0.003"))
    assert one.group == other.group
    assert one.group != cell("cleaned", attack="badnet", seed="0", defence="roclip").group


def test_a_detector_of_models_looks_at_clean_ones_too(suite):
    attacks = {
        name: {c.places["attack"] for c in suite.cells if c.places.get("detector") == name}
        for name in ("slof", "decree")
    }
    assert attacks == {"slof": {"badnet", "wanet"}, "decree": {CLEAN, "badnet", "wanet"}}


def test_a_rebound_is_of_a_cleaned_model(suite, cell):
    cleaned = cell("cleaned", attack="badnet", seed="0", defence="mmcl", rate="0.001")
    rebound = suite.rebound(cleaned)
    assert rebound.start == cleaned and "train.steps=3" in rebound.keys
    assert replace(suite, content={**suite.content, "rebound": None}).rebound(cleaned) is None


def test_a_selection_takes_any_of_a_keys_values(suite):
    only = read_selection("--only", "attack=badnet,defence=mmcl, defence=roclip,seed=0")
    chosen = [cell for cell in suite.cells if cell.within(only)]
    assert {cell.places["defence"] for cell in chosen} == {"mmcl", "roclip"} and len(chosen) == 3
    for text, message in {"attack": "KEY=VALUE", "atack=badnet": "attack"}.items():
        with pytest.raises(UserError, match=message):
            read_selection("--only", text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seeds": (0, 1)', '"seeds": ()', "seeds is empty"),
        ('"rates": (1e-3,)', '"rates": 1', "defences.roclip.rates"),
        ('"wanet"', '"never poisoned"', "never poisoned"),
        ('"kind": "pairs"', '"kind": "pair"', "detectors.slof.kind"),
        ('"k": 8', '"steps": 8', "detectors.slof.options"),
        ('"k": 8', '"k": -8', "detectors.slof.options.k is -8"),
    ],
)
def test_a_suite_that_is_none_is_refused_in_a_line(suite_file, old, new, message):
    suite_file.write_text(suite_file.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        open_suite(str(suite_file), {})


def test_a_suites_keys_are_its_own(suite_file):
    with pytest.raises(UserError, match="seed"):
        open_suite(str(suite_file), {"seed": "3"})
    made = open_suite(str(suite_file), {"train.batch_size": "16"})
    assert all("train.batch_size=16" in c.keys for c in made.cells if c.kind != "detector")


def test_the_shipped_suites_open():
    sizes = {name: len(open_suite(name, {}).cells) for name in ("small", "open", "cc3m")}
    assert sizes["small"] < 20 < 800 < sizes["cc3m"] < sizes["open"]
