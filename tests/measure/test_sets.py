"""Sets by name and by dictionary, class names from files, targets that a set lacks."""

import json
from typing import Any

import numpy as np
import pytest
from helpers.small_pictures import Pictures
from ml_collections import ConfigDict

from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import sets
from cleanclip_jax.measure.sets import SETS, attacked_set, open_sets
from cleanclip_jax.text.prompts import TEMPLATES

WNIDS = ("n01440764", "n01443537", "n07753592", "n02701002")
WORDS = ["tench", "goldfish", "banana", "ambulance"]


@pytest.fixture(autouse=True)
def sources(monkeypatch):
    """What open_source gives, by the path or the TFDS name of its options."""
    known = {
        "main": Pictures([0, 1, 2, 3], tuple(WORDS)),
        "cifar10": Pictures([0, 1], ("airplane", "banana_tree")),
        "imagenet_a": Pictures([3, 3, -1, 1], WNIDS),
        "imagenet2012": Pictures([0, 1, 2, 3], WNIDS),
        "signs": Pictures([0, 1], ("stop", "banana")),
        "twins": Pictures([0, 1], ("banana", "banana")),
        "nameless": Pictures([0, 1, 5], None),
    }
    opened = []

    def open_source(config):
        opened.append(config)
        return known[config.get("path") or config["name"]]

    monkeypatch.setattr(sets, "open_source", open_source)
    return opened


def evaluation(tmp_path=None, **keys: Any) -> ConfigDict:
    config = defaults().evaluation
    with config.unlocked(), config.ignore_type():
        for key, value in keys.items():
            config[key] = ConfigDict(value) if isinstance(value, dict) else value
    return config


def kind(path: str) -> dict[str, str]:
    return {"kind": "parquet", "path": path}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"imagenet1k": {"classes": WORDS}, "cifar100": ["x"]}))
    return str(path)


def test_the_table_names_every_set_and_its_prompts():
    named = "imagenet imagenet_v2 imagenet_a imagenet_r imagenet_sketch cifar10 cifar100 "
    named += "caltech101 dtd aircraft flowers102 food101 gtsrb pets sst2 cars stl10 svhn"
    assert set(SETS) == set(named.split())
    assert all(known.templates in TEMPLATES for known in SETS.values())
    assert {name for name, known in SETS.items() if known.tfds is None} == {
        *("aircraft", "gtsrb", "sst2")
    }


def test_every_tfds_name_is_one():
    builders = pytest.importorskip("tensorflow_datasets").list_builders(
        with_community_datasets=False
    )
    assert {known.tfds for known in SETS.values() if known.tfds} <= set(builders)


def test_the_first_sets_figures_have_no_name_before_them(sources, words):
    settings = evaluation(
        data=kind("main"),
        sets=["imagenet_a", {"name": "signs", "data": kind("signs"), "templates": ["a {} sign"]}],
        classes=words,
        target="banana",
    )
    main, subset, signs = open_sets(settings)
    assert (main.name, main.prefix, main.target) == ("data", "", 2)
    assert main.templates == tuple(TEMPLATES["imagenet"]) and main.classes == tuple(WORDS)
    assert (subset.prefix, signs.prefix) == ("imagenet_a.", "signs.")
    # Only the classes that occur are distinguished, and labels count them.
    assert subset.classes == ("goldfish", "ambulance")
    assert subset.labels.tolist() == [1, 1, -1, 0]
    assert subset.target is None and subset.note == "'banana' is not among the 2 classes"
    assert signs.target == 1 and signs.templates == ("a {} sign",)
    assert {"kind": "tfds", "name": "imagenet_a", "split": "test", "class_name": "label"} in sources


def test_one_name_is_a_list_of_one_and_underscores_are_spaces():
    (only,) = open_sets(evaluation(sets="cifar10", target="banana tree"))
    assert only.classes == ("airplane", "banana tree") and only.target == 1
    assert only.prefix == "" and only.templates == tuple(TEMPLATES["objects"])


def test_an_index_means_the_first_sets_class(words):
    settings = evaluation(data=kind("main"), sets=["imagenet", "cifar10"], classes=words, target=2)
    main, same, other = open_sets(settings)
    assert main.target == same.target == 2
    assert other.target is None and "'banana'" in other.note
    lone = open_sets(evaluation(sets=["imagenet_a", "cifar10"], classes=words, target="banana"))
    assert [each.target for each in lone] == [None, None]


def test_twins_need_an_index(words):
    settings = evaluation(data=kind("main"), sets=[{"name": "t", "data": kind("twins")}], target=2)
    assert "'banana' names 2 of the 2 classes" in open_sets(settings)[1].note
    settings.sets = [{"name": "t", "data": kind("twins"), "target": 1}]
    assert open_sets(settings)[1].target == 1


def test_the_first_set_and_its_target():
    (first,) = open_sets(evaluation(data=kind("main"), target="goldfish"))
    assert len(first.source) == 4 and first.classes == tuple(WORDS) and first.target == 1
    assert first.indices.tolist() == [0, 1, 2, 3]
    assert attacked_set(evaluation(data=kind("main"))) is attacked_set(evaluation()) is None
    assert open_sets(evaluation()) == []
    np.testing.assert_array_equal(first.source.labels(), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sets": ["cifar1"]}, "Did you mean 'cifar10'"),
        ({"sets": ["gtsrb"]}, "not in TensorFlow Datasets; give {'name': 'gtsrb'"),
        ({"sets": ["imagenet"]}, "WordNet ids .n01440764, ….: name a file"),
        ({"sets": [{"name": "x", "dat": 1}]}, "sets: unknown 'dat'. Did you mean 'data'"),
        ({"sets": [{"data": {"kind": "x"}}]}, "sets.name is missing"),
        ({"sets": ["cifar10", "cifar10"]}, "two sets are called 'cifar10'"),
        ({"data": kind("main"), "target": "bananna"}, "Did you mean 'banana'"),
        ({"data": kind("nameless")}, "has no classes: name its column"),
        (
            {"data": kind("nameless"), "classes": "{words}#imagenet1k"},
            r"record 2 has the label 5, but the 4 classes are 0\.\.3",
        ),
        ({"data": kind("main"), "classes": "{words}#cifar100"}, "has 4 classes, and .* names 1"),
        (
            {"data": kind("main"), "attack": {"trigger": {"name": "badnet"}}},
            "has no target, nor has config.evaluation",
        ),
    ],
)
def test_mistakes_are_one_line(keys, message, words):
    keys = {k: v.replace("{words}", words) if isinstance(v, str) else v for k, v in keys.items()}
    with pytest.raises(UserError, match=message) as error:
        open_sets(evaluation(**keys))
    assert "\n" not in str(error.value)


def test_names_that_half_agree_are_refused(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps([*WORDS[:3], "car"]))
    entry = {"name": "own", "data": kind("main"), "classes": str(tmp_path / "other.json")}
    with pytest.raises(UserError, match="some are not, as 'ambulance'"):
        open_sets(evaluation(sets=[entry]))
    # The same names in another order: each label keeps its own.
    (tmp_path / "other.json").write_text(json.dumps(WORDS[::-1]))
    assert open_sets(evaluation(sets=[entry]))[0].classes == tuple(WORDS)
