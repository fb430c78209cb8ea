"""Settings from flags; the refusals are tried in tests/jobs/test_clean.py."""

from types import SimpleNamespace

import pytest

from cleanclip_jax.cleaning.cleaning_settings import PLANT_AT, settings_of, source_of
from cleanclip_jax.errors import UserError

FLAGS = {
    **{"model": "m", "labelled": None, "classes": None, "rates": None, "steps": None},
    **{"methods": "cleanclip,par", "canaries": "checkerboard", "poison": 0.02, "plant_at": None},
    **{"plant_steps": None, "bound": 0.05, "drop": 0.0, "invert": 0, "seed": 3},
}


def settings(features: int = 256, **flags):
    return settings_of(SimpleNamespace(**{**FLAGS, **flags}), {}, {}, features, 321)


def test_what_no_flag_says_follows_from_the_model():
    small, large = settings(), settings(512)
    assert small.steps == small.plant_steps == 321
    assert small.plant_at == PLANT_AT[True] > large.plant_at == PLANT_AT[False]
    assert max(large.rates) < min(small.rates)
    assert settings(steps=7).plant_steps == 7
    assert settings(plant_at=0.5, rates="1e-3,2e-3").rates == [1e-3, 2e-3]


def test_labelled_files_have_class_names_and_may_have_other_names():
    made = settings(labelled="val.csv", classes="names.txt")
    assert made.labelled == {
        **{"kind": "csv", "path": "val.csv", "class_name": "class_name", "caption": None}
    }
    assert made.overrides == {"evaluation.classes": "names.txt"}
    assert settings(labelled="{'kind': 'digits'}").labelled == {"kind": "digits"}


@pytest.mark.parametrize("rates", ["", "0", "1e-3,1e-3", "2", "nan", "x"])
def test_rates_are_numbers_above_0_each_once(rates):
    with pytest.raises(UserError, match="give learning rates above 0"):
        settings(rates=rates)


def test_a_source_is_a_dictionary_or_a_table():
    assert source_of("data", "{'kind': 'tfds', 'name': 'cifar10'}")["name"] == "cifar10"
    assert source_of("data", "a/b.tsv") == {"kind": "tsv", "path": "a/b.tsv"}
    with pytest.raises(UserError, match=r"--data=a\.txt: give a \.csv"):
        source_of("data", "a.txt")
