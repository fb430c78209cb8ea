"""The trial: what it measures, that nothing is made twice, and what it refuses."""

import json
import shutil

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.persist.trial import Settings, Trial
from cleanclip_jax.report.evaluation import measure_run
from cleanclip_jax.start.start import open_start


def test_it_measures_what_evaluate_does(make_trial, models, tmp_path):
    trial = make_trial()
    for name in ("cleaned", "poisoned"):
        start = open_start(models[name])
        figures = measure_run(start, start.config, tmp_path / f"{name}.json")["figures"]
        measured = trial.measure(trial.encoder(start))
        assert set(measured) == {"ca", "asr", "clean_target_rate"}
        assert all(measured[key]["value"] == figures[key]["value"] for key in measured)
    # The floor, whose config knows no attack, is measured by the poisoned model's.
    assert trial.measure(trial.encoder(trial.starts["floor"]))["asr"]["of"] == figures["asr"]["of"]
    assert "zscore" in trial.measure(trial.encoder(start), ("zscore",))


def test_rows_are_written_as_they_end_and_made_once(make_trial):
    made, figures = [], {"asr": {"value": 0.5}}
    row = {"protocol": "path", "model": "cleaned", "at": 0.5}

    def make() -> dict:
        made.append(1)
        return figures

    trial = make_trial()
    trial.once(make, **row)
    assert json.loads((trial.folder / "persist.json").read_text())["rows"] == [
        {**row, "figures": figures}
    ]
    again = make_trial(seeds=(0, 1), rates=(1e-2,), alphas=("1",), protocols=("path",))
    again.once(make, **row)
    again.once(make, **{**row, "at": 1.0})
    assert made == [1, 1] and len(again.rows) == 2


def test_figures_by_other_settings_are_not_mixed(make_trial):
    make_trial(floor=False)
    make_trial()  # a floor may come later
    make_trial(floor=False)
    for change in ({"epochs": (1, 3)}, {"radius": 0.1}, {"poisons": 4}):
        (key,) = change
        with pytest.raises(UserError, match=f"holds figures with another {key}"):
            make_trial(**change)


def changed(models, name: str, folder, **keys) -> dict:
    """The models, of which one's config says something else."""
    path = shutil.copytree(models[name], folder)
    config = json.loads((path / "config.json").read_text())
    for key, value in keys.items():
        section, _, last = key.rpartition("__")
        (config[section] if section else config)[last] = value
    (path / "config.json").write_text(json.dumps(config))
    return {**models, name: path}


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "floor",
            {"attack": {"target": "one", "trigger": {"name": "badnet"}, "count": 1}},
            "was poisoned: name a model that never was",
        ),
        ("floor", {"model__image_size": 32}, "of another architecture .*: its image_size is 32"),
        ("poisoned", {"model__activation": "gelu"}, "of another architecture"),
        ("poisoned", {"attack": None, "evaluation__attack": None}, "has no attack: name the run"),
        (
            "poisoned",
            {
                "evaluation__attack": {
                    **{"target": "seven", "trigger": {"name": "none"}},
                    "text": {"word": "SUDO", "at": "start"},
                }
            },
            "is no trigger of pictures alone",
        ),
        ("poisoned", {"evaluation__data": None}, "config.evaluation.data is not set"),
    ],
)
def test_what_cannot_be_compared_is_one_line(models, settings, tmp_path, name, keys, message):
    paths = changed(models, name, tmp_path / "other", **keys)
    starts = {key: open_start(path) for key, path in paths.items()}
    with pytest.raises(UserError, match=message):
        Trial(tmp_path / "persist", starts, settings)
    assert not (tmp_path / "persist").exists()


def test_a_floor_that_began_poisoned_is_refused(models, settings, tmp_path):
    starts = {key: open_start(models[key]) for key in ("cleaned", "poisoned")}
    starts["floor"] = open_start(models["cleaned"])  # which began with the poisoned one
    with pytest.raises(UserError, match="poisoned was poisoned"):
        Trial(tmp_path / "persist", starts, settings)


def test_a_runs_workdir_takes_no_figures(models, settings):
    starts = {key: open_start(path) for key, path in models.items()}
    with pytest.raises(UserError, match="is a run's workdir: name a folder with --output"):
        Trial(models["cleaned"], starts, Settings(**vars(settings))).claim()
