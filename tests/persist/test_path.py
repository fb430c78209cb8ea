"""The path: its ends are the models, its middle their mean."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from cleanclip_jax.config import from_json, to_json
from cleanclip_jax.persist.path import measure_path, mixture
from cleanclip_jax.persist.trial import Trial
from cleanclip_jax.start.mixing import variables_of
from cleanclip_jax.start.model import make_model, shapes_of
from cleanclip_jax.start.start import open_start
from cleanclip_jax.start.store import save_first


def test_the_ends_are_the_models_and_nothing_is_measured_twice(make_trial, say, monkeypatch):
    trial = make_trial()
    measure_path(trial, say)
    rows = {(row["model"], row["at"]): row["figures"] for row in trial.rows}
    assert set(rows) == {(name, at) for name in ("cleaned", "floor") for at in (0.0, 0.5, 1.0)}
    for name in ("cleaned", "floor"):
        assert rows[name, 0.0] == trial.measure(trial.encoder(trial.starts[name]))
        assert rows[name, 1.0] == trial.measure(trial.encoder(trial.starts["poisoned"]))
    again = make_trial(alphas=("0", "0.25"))
    measured = []
    monkeypatch.setattr(Trial, "measure", lambda self, encoder: measured.append(1) or {})
    measure_path(again, say)
    assert len(measured) == 2 and len(again.rows) == 8


def test_between_are_weighted_means_of_the_weights(make_trial):
    trial = make_trial(floor=False)
    ends = [variables_of(trial.starts[name], trial.mesh) for name in ("cleaned", "poisoned")]
    middle = mixture(trial, "cleaned", ends, 0.25).variables
    for a, b, c in zip(*(jax.tree.leaves(t["params"]) for t in (*ends, middle)), strict=True):
        expected = 0.75 * a.astype(np.float32) + 0.25 * b.astype(np.float32)
        np.testing.assert_array_equal(np.asarray(c), expected.astype(a.dtype))


@pytest.mark.slow
def test_a_resnets_statistics_are_taken_anew(models, settings, tmp_path):
    starts = {}
    for seed, name in enumerate(("cleaned", "poisoned")):
        path = shutil.copytree(
            models[name], tmp_path / name, ignore=shutil.ignore_patterns("checkpoints")
        )
        config = from_json(path / "config.json")
        config.model.variant, config.model.image_size = "RN-test", 32
        config.model.param_dtype = "float32"
        (path / "config.json").write_text(to_json(config))
        start, rng = open_start(path), np.random.default_rng(seed)
        shapes = shapes_of(make_model(config, start.vocab_size))
        draw = partial(rng.uniform, 0.01, 0.2)
        save_first(path, jax.tree.map(lambda x, d=draw: d(size=x.shape).astype(x.dtype), shapes))
        starts[name] = start
    trial = Trial(tmp_path / "persist", starts, settings)
    ends = [variables_of(starts[name], trial.mesh) for name in ("cleaned", "poisoned")]
    means = {
        alpha: np.asarray(
            mixture(trial, "cleaned", ends, alpha).variables["batch_stats"]["visual"]["bn1"]["mean"]
        )
        for alpha in (0.0, 0.5, 1.0)
    }
    a, b = (end["batch_stats"]["visual"]["bn1"]["mean"] for end in ends)
    np.testing.assert_array_equal(means[0.0], a)
    np.testing.assert_array_equal(means[1.0], b)
    assert (means[0.5] != (a + b) / 2).all()
    assert json.dumps(means[0.5].tolist()) != json.dumps(a.tolist())
