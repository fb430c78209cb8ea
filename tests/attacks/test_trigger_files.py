import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.trigger_files import PATCH, PATTERN, save, trigger_config
from PIL import Image

from cleanclip_jax.attacks.trigger_files import digest
from cleanclip_jax.attacks.triggers import Stamp, make_trigger
from cleanclip_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
HERE = Stamp(0, 0, 0)


@pytest.mark.parametrize(("side", "at"), [(16, 104), (15, 104), (24, 100)])
def test_a_patch_of_a_file_is_badclips(golden, tmp_path: Path, side: int, at: int):
    values, image = golden("attacks"), golden("triggers")["squashed_224"]
    file = save(values["patch_file|patch"], tmp_path / "patch.png")
    trigger = make_trigger({"name": "patch", "file": file, "size": side})
    stamp = trigger.stamp(224, 0)
    assert stamp == Stamp(at, at, 0)
    expected, inside = image.copy(), np.s_[at : at + side, at : at + side]
    expected[inside] = values[f"patch_file|size={side}|place=middle|row=col={at}|pasted"]
    np.testing.assert_array_equal(trigger.apply(image, stamp), expected)


def test_a_picture_mixed_in_is_badclips(golden, tmp_path: Path):
    values, image = golden("attacks"), golden("triggers")["squashed_224"]
    file = save(values["picture_blend|pattern"], tmp_path / "pattern.png")
    result = make_trigger({"name": "picture", "file": file}).apply(image, HERE)
    expected = values["picture_blend|badclip|alpha=0.2|size=224|output"]
    np.testing.assert_array_equal(result, expected)


def test_a_patch_is_as_large_as_its_file_and_red_and_blue_may_be_swapped(tmp_path: Path):
    config = trigger_config("patch", tmp_path)
    trigger, swapped = make_trigger(config), make_trigger(config | {"channels": "bgr"})
    assert trigger.options["size"] == 6 and trigger.stamp(32, 0) == Stamp(13, 13, 0)
    inside = np.s_[13:19, 13:19]
    np.testing.assert_array_equal(trigger.apply(IMAGE, trigger.stamp(32, 0))[inside], PATCH)
    result = swapped.apply(IMAGE, trigger.stamp(32, 0))[inside]
    np.testing.assert_array_equal(result, PATCH[:, :, ::-1])


@pytest.mark.parametrize(
    ("side", "size", "row"), [(224, 16, 104), (224, 15, 104), (32, 6, 13), (33, 33, 0), (33, 6, 13)]
)
def test_the_middle_is_badclips(side: int, size: int, row: int):
    trigger = make_trigger({"name": "yellow", "size": size, "place": "center"})
    assert trigger.stamp(side, 0) == Stamp(row, row, 0)


def test_pictures_made_elsewhere_are_found_by_the_clean_ones_digest(tmp_path: Path):
    trigger = make_trigger(trigger_config("pictures", tmp_path, IMAGE))
    np.testing.assert_array_equal(trigger.apply(IMAGE, HERE), 255 - IMAGE)
    with pytest.raises(UserError, match=rf"made has no {digest(IMAGE[::-1])}\.png, the triggered"):
        trigger.apply(IMAGE[::-1], HERE)
    save(IMAGE[:8], tmp_path / "made" / f"{digest(IMAGE)}.png")
    with pytest.raises(UserError, match="is 32 x 8 pixels, and its clean picture 32 x 32"):
        trigger.apply(IMAGE, HERE)


@pytest.mark.parametrize("name", ["patch", "picture"])
def test_another_file_than_the_manifests_is_noticed(tmp_path: Path, name: str):
    config = make_trigger(trigger_config(name, tmp_path)).config
    assert make_trigger(config).config == config
    save(PATTERN[:6, :6], tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=rf"file: .*{name}\.png is not the file of the manifest"):
        make_trigger(config)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is not there; check the path"),
        (lambda path: _write(path, b"x"), "1 bytes in no image format"),
        (lambda path: os.mkfifo(path), "is a folder, pipe or device"),
        (lambda path: path.mkdir(), "is a folder, pipe or device"),
        (lambda path: save(PATTERN, path), "12 x 9 pixels, and a patch is square: cut it"),
        (
            lambda path: Image.new("1", (5000, 5000)).save(path),
            "5000 x 5000 pixels: at most 4096 a side are read",
        ),
    ],
    ids=["absent", "text", "pipe", "folder", "oblong", "large"],
)
def test_a_file_that_is_no_patch_is_one_line(tmp_path: Path, make: Any, message: str):
    make(tmp_path / "patch.png")
    with pytest.raises(UserError, match=message) as caught:
        make_trigger({"name": "patch", "file": str(tmp_path / "patch.png")})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config.attack.trigger.file: ")


def test_a_trigger_none_leaves_pictures_alone():
    trigger = make_trigger({"name": "none"})
    assert trigger.stamp(32, 3) == HERE
    np.testing.assert_array_equal(trigger.apply(IMAGE, HERE), IMAGE)
