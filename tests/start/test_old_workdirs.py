"""Workdirs that were made before the redesign of November 2026 are opened, measured, taken up."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.small_run import train

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import from_json
from cleanclip_jax.files import read_lines
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import load_start, open_start

WORKDIRS = Path(__file__).parents[1] / "golden" / "workdirs"


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A run that was killed after its checkpoint of step 2 of 4."""
    return Path(shutil.copytree(WORKDIRS / "poisoned", tmp_path / "poisoned"))


def test_a_checkpoint_and_its_manifest_are_opened(poisoned: Path):
    loaded = load_start(open_start(poisoned), make_mesh(1))
    assert loaded.step == 2 and loaded.head is None and loaded.config.model.image_size == 16
    assert loaded.tokenizer.vocab_size == loaded.model.variant.vocab_size
    assert {x.dtype.name for x in jax.tree.leaves(loaded.variables["params"])} == {"bfloat16"}
    plan = Plan.load(poisoned / "poison.parquet")
    assert len(plan) == 42 and plan.target == "seven"


def test_a_run_goes_on_to_the_figures_that_it_had(poisoned: Path, tmp_path: Path):
    before = {row["step"]: row for row in read_lines(poisoned / "metrics.jsonl")}
    assert list(before) == [1, 2, 3, 4]
    train(from_json(poisoned / "config.json"), poisoned)
    after = {row["step"]: row for row in read_lines(poisoned / "metrics.jsonl")}
    assert list(after) == [1, 2, 3, 4]
    for step in (3, 4):
        for name in ("loss", "cross_modal", "learning_rate", "logit_scale"):
            np.testing.assert_allclose(after[step][name], before[step][name], rtol=1e-5)
        # Parameters and so gradients are bfloat16.
        np.testing.assert_allclose(
            after[step]["gradient_norm"], before[step]["gradient_norm"], rtol=0.02
        )


def test_a_head_is_opened_and_its_run_needs_no_start(tmp_path: Path):
    probe = Path(shutil.copytree(WORKDIRS / "probe", tmp_path / "probe"))
    loaded = load_start(open_start(probe), make_mesh(1))
    assert loaded.head is not None and loaded.head.params is not None
    assert len(loaded.head.classes) == 10 and loaded.head.params["bias"].shape == (10,)
    config = from_json(probe / "config.json")
    assert config.start == "poisoned"  # which lies nowhere here
    rows = read_lines(probe / "metrics.jsonl")
    train(config, probe)
    assert read_lines(probe / "metrics.jsonl") == rows
    assert json.loads((probe / "inputs.json").read_text())["start"] == {
        "path": "poisoned",
        "step": 4,
    }
