import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError

CLASSES = ["dog", "cat", "ant"]
# As the original keeps it: a dict in Python, with code in it.
PYTHON = """
{"classes": ["dog", "cat",
             "ant"],
 "templates": [lambda c: f"a photo of a {c}."]}
"""


@pytest.fixture
def folder(tmp_path: Path, png: Callable[[int], bytes]) -> Path:
    rows = ["image,label,name,gap"]
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        rows.append(f"{i}.png,{i % 3},{CLASSES[i % 3]},{'' if i == 4 else f'{i % 3}.0'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "classes.py").write_text(PYTHON)
    return tmp_path


def labels(path: Path, **options: Any) -> Source:
    return open_source({"kind": "labels", "path": str(path)} | options)


def test_the_originals_folder_is_read(folder: Path, png: Callable):
    source = labels(folder)
    assert source.class_names == tuple(CLASSES) and source.labels().tolist() == [0, 1, 2] * 2
    assert source[4].image == png(4) and source[4].label == 1 and source.caption(4) == ""


@pytest.mark.parametrize("form", ["list", "file of a list", "file of a dict"])
def test_classes_are_a_list_or_a_file(folder: Path, form: str):
    classes: Any = CLASSES
    if form != "list":
        classes = str(folder / "names.json")
        held = CLASSES if form == "file of a list" else {"classes": CLASSES}
        Path(classes).write_text(json.dumps(held))
    for column in ("label", "name", "gap"):
        source = labels(folder / "labels.csv", classes=classes, label=column)
        expected = [0, 1, 2, 0, -1 if column == "gap" else 1, 2]
        assert source.labels().tolist() == expected and source.class_names == tuple(CLASSES)
    assert labels(folder, label="name", templates=["a {}"]).caption(4) == "a cat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"classes": ["dog", "cat"]},
            "label, by name or number of 2 classes: unknown '2'. Known: dog, cat",
        ),
        (
            {"classes": ["Dog", "cat", "ant"], "label": "name"},
            "name, by name .*unknown 'dog'.* 'Dog'",
        ),
        ({"classes": ["dog", "dog", "ant"], "label": "name"}, "name='dog' names 2 classes"),
        ({"classes": "nowhere.json"}, "nowhere.json is not there"),
        ({"classes": "labels.csv"}, "labels.csv' is no file that ends with .json or .py"),
        ({"label": "lable"}, "column: unknown 'lable'.*Did you mean 'label'"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, options: dict, message: str, monkeypatch: Any):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message) as error:
        labels(folder, **options)
    assert "\n" not in str(error.value)


def test_of_classes_that_share_a_name_the_numbers_tell(folder: Path):
    """As ImageNet's two called missile."""
    source = labels(folder, classes=["dog", "dog", "ant"])
    assert source.labels().tolist() == [0, 1, 2] * 2 and source.class_names is not None


def test_a_class_file_of_code_is_one_line_and_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    code = 'open("ran.txt", "w")'
    for text in (f"import os\n{code}\n", f'{{"classes": ["a"], "templates": [lambda c: {code}]}}'):
        (folder / "classes.py").write_text(text)
        with pytest.raises(UserError, match=r"classes.py") as error:
            labels(folder)
        assert "\n" not in str(error.value)
    assert not (folder / "ran.txt").exists()
