"""What is refused before anything is written."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
