"""Class files: JSON of several shapes, and the original's Python, parsed and never run."""

import json

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.text.classes import is_class_file, read_classes
from cleanclip_jax.text.prompts import templates

ENTRY = {"classes": ["tench", "missile", "missile"], "templates": ["a {}."]}


def written(tmp_path, content, name="classes.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_the_shapes_of_json(tmp_path):
    for content, key in (
        (ENTRY["classes"], ""),
        (ENTRY, ""),
        ({"only": ENTRY}, ""),
        ({"imagenet1k": ENTRY, "cifar10": ["x"]}, "#imagenet1k"),
    ):
        read = read_classes(written(tmp_path, content) + key)
        assert read.names == ("tench", "missile", "missile")
        assert read.templates == (() if isinstance(content, list) else ("a {}.",))
    spec = written(tmp_path, {"imagenet1k": ENTRY, "cifar10": ["x"]})
    assert read_classes(spec, "cifar10").names == ("x",)
    assert read_classes(f"{spec}#imagenet1k", "cifar10").names == read.names
    assert templates(f"{spec}#imagenet1k") == ("a {}.",)


def test_the_shared_file(shared_data):
    spec = str(shared_data / "meta/classes_and_templates.json")
    read = read_classes(spec, "imagenet1k")
    assert len(read.names) == 1000 and read.names[954] == "banana"
    assert read.templates == templates("imagenet")
    with pytest.raises(UserError, match=r"name one: .*#KEY"):
        read_classes(spec)


@pytest.mark.parametrize(
    "code",
    [
        "classes = ['a', 'b']\ntemplates = [lambda c: f'a photo of a {c}.', 'my {}',"
        " lambda x: 'the {} here'.format(x)]\n",
        "{'classes': ['a', 'b'], 'templates': [lambda c: f\"a photo of a {c}.\", 'my {}',"
        " lambda c: f'the {c} here']}",
        "import os\nconfig = {'classes': ('a', 'b'), 'templates': ['a photo of a {}.', 'my {}',"
        " 'the {} here']}\nos.remove(__file__)\n",
    ],
    ids=["variables", "dictionary", "named dictionary"],
)
def test_python_is_parsed_and_not_run(tmp_path, code):
    spec = written(tmp_path, code, "classes.py")
    read = read_classes(spec)
    assert read.names == ("a", "b")
    assert read.templates == ("a photo of a {}.", "my {}", "the {} here")
    assert (tmp_path / "classes.py").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("classes = open('names').read().split()", "line 1: `classes` is no list"),
        ("classes = ['a']\ntemplates = [\n  lambda c: print(c)]", "line 3: neither text nor"),
        ("classes = ['a']\ntemplates = [lambda c: f'{c} {c.upper()}']", "line 2: neither text nor"),
        ("classes = ['a']\ntemplates = [lambda c: f'a {d}']", "of the class name alone"),
        ("classes = ['a']\ntemplates = [lambda c: f'no class']", "'no class' has no {}"),
        ("classes = ['a', 3]", "no list of class names, each of them text"),
        ("names = ['a']", "assigns no `classes`"),
        ("classes = [", "line 1 is not readable as Python"),
        (f"classes = {'[' * 50_000}", "line 1 is not readable as Python"),
        (f"classes = {'-' * 200_000}1", "line 1 is not readable as Python"),
        ("classes = ['\\d', b'a']", "no list of class names, each of them text"),
    ],
)
def test_other_python_is_refused_with_its_line(tmp_path, code, message):
    with pytest.raises(UserError) as error:
        read_classes(written(tmp_path, code, "classes.py"))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ('{"classes": ', "", "not readable as JSON"),
        ({"classes": []}, "", "no list of class names"),
        *(
            (content, "", "no list of class names")
            for content in (
                "null",
                "3",
                '"abc"',
                [["a"]],
                {"classes": "abc"},
                {"classes": {"a": 1}},
            )
        ),
        ({"one": 3}, "", "no list of class names"),
        ({"imagenet1k": ENTRY, "cifar10": ENTRY}, "#cifar1", "Did you mean 'cifar10'"),
        ({"classes": ["a"], "templates": ["b"]}, "", "the template 'b' has no {}"),
    ],
)
def test_other_json_is_refused(tmp_path, content, key, message):
    with pytest.raises(UserError) as error:
        read_classes(written(tmp_path, content) + key)
    assert message in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        read_classes(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="no file that ends with"):
        read_classes("names.txt")
    with pytest.raises(UserError, match="has none, only class names"):
        templates(written(tmp_path, ["a"]))
    assert is_class_file("a/b.json#x") and is_class_file("c.py") and not is_class_file("imagenet")
