import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord

NAMES = {"n02": "dog", "n01": "cat", "n03": "ant"}


@pytest.fixture
def folder(tmp_path: Path, png: Callable[[int], bytes]) -> Path:
    """Five cats and three dogs in folders named as WordNet does; and what is no picture."""
    root = tmp_path / "train"
    for i in range(8):
        name = f"n01/images/{i}.JPEG" if i < 5 else f"n02/{i}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    (root / "n01/boxes.txt").write_text("")
    (root / "stray.png").write_bytes(png(9))
    return root


def pictures(path: Path, **options: Any) -> Source:
    return open_source({"kind": "folder", "path": str(path)} | options)


def test_each_folder_is_a_class(folder: Path, png: Callable, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        source = pictures(folder)
    assert "left out 2 files" in caplog.text
    assert source.class_names == ("n01", "n02") and source.labels().tolist() == [0] * 5 + [1] * 3
    assert source[6].image == png(6) and source[6].label == 1 and source.caption(6) == ""
    assert source.where(6) == source[6].where == "train n02/6.png"
    assert pickle.loads(pickle.dumps(source))[0].image == png(0)


@pytest.mark.parametrize("form", ["mapping", "file"])
def test_folders_may_have_other_names(folder: Path, form: str, tmp_path: Path):
    names: Any = NAMES
    if form == "file":
        names = str(tmp_path / "names.json")
        Path(names).write_text(json.dumps(NAMES))
    source = pictures(folder, names=names, templates=["a {}"])
    assert source.class_names == ("cat", "dog")
    assert [source.caption(i) for i in (0, 7)] == ["a cat", "a dog"]
    dogs = pictures(folder, names=names, where={"class": "dog"})
    assert len(dogs) == 3 and dogs.class_names == ("cat", "dog")


def test_the_fingerprint_is_of_names_and_sizes(folder: Path, tmp_path: Path):
    seen = {pictures(folder).fingerprint}
    moved = folder.rename(tmp_path / "moved")
    assert pictures(moved).fingerprint in seen
    file = moved / "n02/6.png"
    file.write_bytes(file.read_bytes() + b"x")
    seen.add(pictures(moved).fingerprint)
    file.rename(moved / "n02/66.png")
    seen.add(pictures(moved).fingerprint)
    seen.add(pictures(moved, names=NAMES).fingerprint)
    (moved / "n01/images/0.JPEG").unlink()
    seen.add(pictures(moved).fingerprint)
    assert len(seen) == 5


def test_two_folders_may_share_a_name(folder: Path):
    """As two of ImageNet's, called missile: they stay two classes."""
    source = pictures(folder, names={"n01": "missile", "n02": "missile"})
    assert source.class_names == ("missile", "missile") and set(source.labels()) == {0, 1}


def test_a_link_that_leads_nowhere_is_a_bad_record(folder: Path):
    (folder / "n02/0.png").symlink_to(folder / "gone.png")
    source = pictures(folder)
    with pytest.raises(BadRecord, match=r"train n02/0.png: image .*: No such file"):
        source[5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": {"n01": "cat", "n2": "dog"}},
            "without a class in names: unknown 'n02'.*Did you mean 'n2'",
        ),
        ({"names": {"n01": ["cat"]}}, 'give {"folder": "class"'),
        ({"names": "nowhere.json"}, "nowhere.json: no names of classes: No such file"),
        ({"where": {"class": "cow"}}, "where class: unknown 'cow'. Known: n01, n02"),
        ({"path": "nowhere"}, "nowhere: No such file"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, options: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        open_source({"kind": "folder", "path": str(folder)} | options)
    assert "\n" not in str(error.value)


def test_a_folder_without_classes_is_one_line(tmp_path: Path, png: Callable):
    (tmp_path / "0.png").write_bytes(png(0))
    with pytest.raises(UserError, match="no folder with pictures in it"):
        pictures(tmp_path)
