"""What is refused before anything is written."""

import sys
from pathlib import Path

import pytest
from helpers.small_run import small_config

from cleanclip_jax.errors import UserError
from cleanclip_jax.run.build import build
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.workdir import Workdir


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
