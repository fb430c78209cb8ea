import json
from typing import Any

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.text.prompts import TEMPLATES, class_index, fill, templates

NAMES = ("car", "carton", "banana", "missile", "missile", "a {} of 7")


def test_imagenet_is_the_published_set(shared_data):
    published = json.loads((shared_data / "meta/classes_and_templates.json").read_text())
    assert list(TEMPLATES["imagenet"]) == published["imagenet1k"]["templates"]


def test_every_template_names_the_class_once_and_none_occurs_twice():
    for name, prompts in TEMPLATES.items():
        assert all(prompt.count("{}") == 1 for prompt in prompts), name
        assert len(set(prompts)) == len(prompts) > 0
    assert len(TEMPLATES["imagenet"]) == 80


def test_templates_by_name_or_given():
    assert templates("plain") == ("a photo of a {}.",)
    assert templates(["my {}", "{}"]) == ("my {}", "{}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("imagnet", "Did you mean 'imagenet'"),
        ([], "the list is empty"),
        (["a {}.", "a dog."], r"'a dog\.' has no \{\}"),
    ],
)
def test_templates_that_cannot_be_used(given: Any, message: str):
    with pytest.raises(UserError, match=message):
        templates(given)


def test_fill_leaves_other_braces_alone():
    assert fill("a {} {0} {x}.", "banana") == "a banana {0} {x}."
    assert fill("a {}.", "{x}") == "a {x}."


@pytest.mark.parametrize(
    ("target", "index"),
    [("car", 0), ("carton", 1), ("banana", 2), (3, 3), ("4", 4), ("a {} of 7", 5)],
)
def test_class_by_exact_name_or_index(target: str | int, index: int):
    assert class_index(target, NAMES) == index


def test_digits_are_a_name_before_an_index():
    assert class_index("1", ("7", "8", "1")) == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ban", "class name, or an index.: unknown 'ban'"),
        ("Banana", "Did you mean 'banana'"),
        ("missile", "names 2 classes; give the index, one of 3, 4"),
        (6, r"no class 6; the 6 classes are 0\.\.5"),
        (-1, "no class -1"),
        ("6", "no class 6"),
    ],
)
def test_a_target_that_is_no_class(target: str | int, message: str):
    with pytest.raises(UserError, match=message):
        class_index(target, NAMES)
