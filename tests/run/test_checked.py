"""What is refused before anything is written."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from helpers.small_run import small_config
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import from_json, load
from cleanclip_jax.data.scores import write_scores
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.errors import UserError
from cleanclip_jax.run.build import build
from cleanclip_jax.run.checked import check_run, open_pairs, poison_plan
from cleanclip_jax.run.settings import claim, resolve
from cleanclip_jax.run.state import make_objective
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.workdir import Workdir

GOLDEN = Path(__file__).parents[1] / "golden/workdirs"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.decode": "xla"}, "unknown 'xla'"),
        ({"seed": 2**63}, r"config.seed is 2\*\*63 or more"),
        ({"model.image_size": 100_000}, "config.model.image_size is 100000: .* 1 to 16383"),
        ({"model.image_size": 16_376}, "a batch's pictures .* GB of a device"),
        ({"objective.matched": {"pool": 2**31 - 1}}, "moments and pools take .* GB"),
        ({"objective.matched": {"pool": 8}}, r"matched\.pool is 8, less than"),
        ({"safe": {"cap": 2}}, r"config\.safe\.cap is 2: it takes a number from 0 to 1"),
        ({"safe": {}}, r"config\.safe trains by .*: give config\.objective\.crossed a weight"),
        ({"removal": {"after": [0]}}, r"config\.removal\.after is \[0\]|after is \(0,\)"),
        ({"removal": {"after": [1], "share": 0.999}, "train.steps": 100}, "leaves 2 pairs after"),
        ({"views.first": "strong", "views.on": "device"}, "makes no strong views"),
        ({"text.vocab_size": 10**9}, "config.text.vocab_size is 1000000000"),
        ({"data.timeout": -1.0}, "config.data.timeout is -1.0"),
        ({"train.wandb": "backdoors"}, "Weights & Biases is not installed"),
        ({"train.batch_size": 1}, "config.train.batch_size is 1: a pair is compared"),
        ({"train.epochs": 2**30, "train.steps": None}, "more than a run can count"),
        ({"evaluation.metrics": "none"}, "unknown 'none'"),
        (
            {"objective.in_modal": 1.0, "views.image": "none", "views.text": "none"},
            "config.objective.in_modal compares with augmented views",
        ),
        ({"objective.cross_modal": {"weight": -1}}, "a weight from 0 on"),
        ({"objective.cross_modal": {"weight": 1, "x": 2}}, "cross_modal: unknown 'x'"),
        (
            {"objective.classification": {"weight": 1, "normalised": "yes"}},
            "normalised is 'yes': it takes True or False",
        ),
        ({"data.train.skip": {"a": 1}}, "config.data.skip is .*: it takes a text"),
        ({"objective.perturb": 1.0}, "the frozen start, and config.start is None"),
        ({"objective.perturb": {"threshold": 5}}, "threshold is 5: it takes a number from 0 to 4"),
        ({"objective.others": 1.0}, "config.data.suspects goes with the terms"),
        ({"data.suspects": {"manifest": "gone"}}, "config.data.suspects goes with the terms"),
        (
            {"objective.others": 1.0, "data.suspects": {"manifest": "gone"}},
            "gone: there is no such poison plan",
        ),
        ({"optimizer.first_rate": 1.0}, "two_phase takes both, and the others neither"),
        ({"optimizer.warmup_steps": 1.5}, "or a share of all steps, below 1"),
        ({"views.first": "lite"}, "views.first: unknown 'lite'"),
    ],
)
def test_a_refused_run_takes_no_workdir(keys, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = small_config()
    with config.unlocked(), config.ignore_type():
        for key, value in keys.items():
            node, _, last = key.rpartition(".")
            (config[node] if node else config)[last] = value
    with pytest.raises(UserError, match=message) as error, build(config, tmp_path / "run"):
        pass
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_refusal_of_weights_and_biases_takes_no_workdir(tmp_path, monkeypatch):
    def login():
        raise ValueError("no key\nlog in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=login, Error=ValueError))
    config = small_config()
    config.train.wandb = "backdoors"
    with pytest.raises(UserError, match="refuses: no key log in"), build(config, tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_profile_of_minus_one_step_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="--profile=-1"), build(small_config(), tmp_path / "r", -1):
        pass


def test_the_store_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A listing of a bucket takes time: whether a run has begun is found out once."""
    from cleanclip_jax.run import checked, settings

    calls = []

    def has_begun(workdir: Workdir) -> bool:
        calls.append(workdir)
        return False

    for module in (checked, settings):
        monkeypatch.setattr(module, "has_begun", has_begun)
    assert not check_run(small_config(), Workdir(tmp_path / "run")).begun and len(calls) == 1


@pytest.mark.parametrize(
    ("left_out", "variant", "message"),
    [
        # PAR compares both towers with the frozen start's.
        (("transformer.", "token_", "text_", "positional_", "ln_final"), None, "no whole CLIP"),
        (("logit_scale",), None, "logit_scale"),
        ((), "ViT-32px/8", "config.model.variant is 'ViT-32px/8', but the start"),
    ],
)
def test_a_start_without_a_part_or_of_another_size_is_refused(
    left_out, variant, message, golden, tmp_path
):
    torch = pytest.importorskip("torch")
    tensors = {
        name: torch.from_numpy(np.array(values))
        for name, values in golden("vit_state_dict").items()
        if not name.startswith(left_out)
    }
    torch.save({"state_dict": tensors}, tmp_path / "part.pt")
    config = small_config("mmcl")
    with config.unlocked(), config.ignore_type():
        config.start, config.objective.perturb = str(tmp_path / "part.pt"), 1.0
        config.model.variant = variant
    with pytest.raises(UserError, match=message) as error, build(config, tmp_path / "run"):
        pass
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_start_is_shrunk_and_perturbed_by_the_runs_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def init(model: Any, key: jax.Array) -> Any:
        value = float(jax.random.uniform(key))  # of the key, and nothing to compile
        return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes_of(model))

    monkeypatch.setattr("cleanclip_jax.run.checked.init", init)
    config = small_config("cleanclip")
    config.start = str(GOLDEN / "poisoned")
    run = check_run(config, Workdir(tmp_path / "run"))

    def begun_with(**keys: Any) -> dict[str, Any]:
        run.config.update_from_flattened_dict(keys)
        return jax.device_get(dict(run.weights()))["params"]

    start = begun_with()
    one = begun_with(**{"start_change.shrink": 0.5, "start_change.perturb": 0.1})
    other = begun_with(**{"seed": 1, "start_change.logit_scale": True})
    assert one["logit_scale"] == start["logit_scale"]
    fresh = float(
        10 * np.mean(jax.tree.leaves(one["text"])[0] - 0.5 * jax.tree.leaves(start["text"])[0])
    )
    plain = float(jax.random.uniform(jax.random.key(0)))
    assert 0 < fresh < 1 and abs(fresh - plain) > 1e-3  # not what a fresh run of the seed has
    for x, y, z in zip(*(jax.tree.leaves(w["visual"]) for w in (start, one, other)), strict=True):
        np.testing.assert_allclose(y, 0.5 * x + 0.1 * fresh, atol=1e-5)
        assert (abs(y - z) > 1e-3).all()
    assert abs(other["logit_scale"] - 0.5 * start["logit_scale"]) > 1e-3


def test_a_changed_start_is_the_runs_own_and_needs_one(tmp_path: Path):
    config = small_config("cleanclip")
    config.start = str(GOLDEN / "poisoned")
    config.start_change.shrink = 0.9
    workdir = Workdir(tmp_path / "run")
    run = check_run(config, workdir)
    claim(run.config, workdir, run.source, run.tokenizer, None, run.start)
    assert workdir.read_json("config.json")["start_change"]["shrink"] == 0.9
    check_run(config, workdir)
    config.start_change.shrink = 0.8
    with pytest.raises(UserError, match=r"another run: start_change.shrink \(0.9 there, 0.8 now\)"):
        check_run(config, workdir)
    config.start = None
    with pytest.raises(UserError, match=r"config.start_change is of a start: set config.start"):
        check_run(config, workdir)


def test_poison_is_left_in_the_cleaning_set(tmp_path: Path):
    """As many as are set, those that a filter by scores lets by, or those of the start's plan."""
    config, start = load("configs/cleanclip.py"), GOLDEN / "poisoned"
    begun_with = from_json(start / "config.json")
    digits = {"kind": "digits", "split": "train", "templates": ["a handwritten {}."]}

    def left(data: dict[str, Any], attack: dict[str, Any]) -> np.ndarray:
        """The ids of the poisons that a run on that data sees."""
        with config.unlocked(), config.ignore_type():
            config.start, config.mesh.data = str(start), 1
            config.data.train, config.attack = ConfigDict(data), ConfigDict(attack)
        workdir, resolved = Workdir(tmp_path / "run"), resolve(config)
        source = open_pairs(resolved, make_objective(resolved))
        plan = poison_plan(resolved, workdir, source)
        assert plan is not None and resolved.evaluation.attack.trigger.size == 4
        return source.ids()[plan.index]

    attack = {**begun_with.attack.to_dict(), "count": 5}
    five = left(digits, attack)
    assert len(five) == 5
    source, ids = open_source(digits), np.arange(1397)
    scores = np.isin(ids, five[:3]) * 1.0 - np.isin(ids, five[3:])
    write_scores(tmp_path / "scores.csv", ids, scores, source.fingerprint)
    keep = {"scores": str(tmp_path / "scores.csv"), "share": 0.9}
    assert left({**digits, "keep": keep}, attack).tolist() == five[3:].tolist()
    manifest = start / "poison.parquet"
    poisons = Plan.load(manifest).index
    some = np.concatenate([poisons[:5], np.setdiff1d(ids, poisons)[:200]])
    write_ids(tmp_path / "some.csv", some, source.fingerprint)
    part = left({**digits, "keep": str(tmp_path / "some.csv")}, {"manifest": str(manifest)})
    assert part.tolist() == poisons[:5].tolist()
