"""The stages' settings; the whole is run in tests/jobs/test_clean.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from cleanclip_jax.cleaning.choice import Failure, Point
from cleanclip_jax.cleaning.cleaning import Cleaning
from cleanclip_jax.cleaning.cleaning_settings import Settings
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.start.start import open_start

POISONED = Path(__file__).parents[1] / "golden/workdirs/poisoned"
DATA = {"kind": "digits", "templates": ["a handwritten {}."]}
SETTINGS = Settings(
    *(str(POISONED), DATA, {**DATA, "split": "test"}, ("checkerboard", "wanet"), 0.02),
    *(1e-3, 8, ("cleanclip",), (1e-3, 2e-3, 4e-3, 3e-3), 8, 0.05, 0.0, 0, {}),
)


def cleaning(folder: Path, settings: Settings = SETTINGS) -> Cleaning:
    start = open_start(POISONED)
    return Cleaning(folder, start, start.config, settings, open_source(DATA))


def test_a_folder_goes_on_with_the_same_settings_alone(tmp_path):
    cleaning(tmp_path)
    cleaning(tmp_path)
    with pytest.raises(UserError, match=r"another rate: 0\.02, now 0\.03; name another --workdir"):
        cleaning(tmp_path, replace(SETTINGS, rate=0.03))
    # What the models that are there do not depend on may be another.
    cleaning(tmp_path, replace(SETTINGS, rates=(4e-3, 5e-3), methods=("par",), bound=0.1))


def test_a_method_ends_past_a_passing_point_where_it_is_less_useful(tmp_path, monkeypatch):
    one, useful = cleaning(tmp_path), {1e-3: 0.9, 2e-3: 0.5, 3e-3: 0.4, 4e-3: 0.6}
    passing = {2e-3, 3e-3, 4e-3}
    monkeypatch.setattr(one, "train", lambda name, config: one.folder / name)

    def point(method, rate, path, attack, floors):
        return Point(method, rate, str(path), useful[rate], {}, {})

    monkeypatch.setattr(one, "point", point)
    monkeypatch.setattr(
        "cleanclip_jax.cleaning.cleaning.passes", lambda point: point.rate in passing
    )
    (tmp_path / "train.parquet").touch()
    # 1e-3 is more useful, but a canary is left there.
    assert [each.rate for each in one.points(POISONED, {}, {}, 4)] == [1e-3, 2e-3, 3e-3]
    assert [each.rate for each in one.points(POISONED, {}, {}, 2)] == [3e-3, 4e-3]


def test_a_rate_whose_loss_is_not_finite_is_named_and_ends_its_method(tmp_path, monkeypatch):
    one, trained = cleaning(tmp_path, replace(SETTINGS, methods=("cleanclip", "mmcl"))), []

    def train(name, config):
        trained.append(name)
        if name in ("cleanclip,0.002", "mmcl,0.001"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "not_finite.json").write_text("{}")
            raise UserError("the loss (nan) is not finite at step 3")

    monkeypatch.setattr(one, "train", train)
    monkeypatch.setattr(
        one, "point", lambda method, rate, path, *_: Point(method, rate, str(path), 0.0, {}, {})
    )
    monkeypatch.setattr("cleanclip_jax.cleaning.cleaning.passes", lambda point: False)
    (tmp_path / "train.parquet").touch()
    points = list(one.points(POISONED, {}, {}, 4))
    assert [point.rate for point in points] == [1e-3, 2e-3, 1e-3]
    assert points[1:] == [
        Failure(m, r, points[1][2]) for m, r in (("cleanclip", 2e-3), ("mmcl", 1e-3))
    ]
    # Nor is it tried again; what else ends a run ends the command.
    one_more = trained.copy()
    list(one.points(POISONED, {}, {}, 4))
    assert trained == [*one_more, "cleanclip,0.001"]
    monkeypatch.setattr(one, "train", lambda name, config: (_ for _ in ()).throw(UserError("disk")))
    with pytest.raises(UserError, match="disk"):
        list(one.points(POISONED, {}, {}, 4))


def test_pars_schedule_is_scaled_as_a_whole(tmp_path):
    (tmp_path / "train.parquet").touch()
    config = cleaning(tmp_path).run("par", "start", 1e-3, 8)
    assert config.optimizer.first_rate == 1e-3
    assert config.optimizer.learning_rate == pytest.approx(1e-4)
    assert config.train.batch_size == 64
    larger = replace(SETTINGS, overrides={"train.batch_size": "256"})
    assert cleaning(tmp_path / "b", larger).run("par", "start", 1e-3, 8).train.batch_size == 256


def test_what_is_trained_takes_the_users_keys_and_the_stages_own(tmp_path):
    keys = {"train.batch_size": "32", "optimizer.weight_decay": "0.5", "evaluation.templates": "x"}
    config = cleaning(tmp_path, replace(SETTINGS, overrides=keys)).run(
        "cleanclip", "start", 1e-3, 8
    )
    assert (config.train.batch_size, config.optimizer.weight_decay) == (32, 0.5)
    assert (config.start, config.train.steps, config.optimizer.warmup_steps) == ("start", 8, 2)
    assert config.data.train.keep == str(tmp_path / "train.parquet")
    assert config.evaluation.templates is None


def test_targets_are_classes_that_have_pictures_enough(tmp_path):
    attack = cleaning(tmp_path).attack()
    targets = [part["target"] for part in attack["parts"]]
    assert len(set(targets)) == 2 and attack["templates"] == "imagenet"
    assert attack["parts"][1]["trigger"]["strength"] > 1
