"""COCO's file of captions, and Karpathy's, beside a folder of pictures, to train on."""

import json
from pathlib import Path
from typing import Any

import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError

CAPTIONS = {"a.png": ["a cat", " ", "a tabby"], "b.png": ["a dog"], "c.png": []}


def coco(folder: Path, **options: Any) -> Source:
    images = [{"id": 7 * i, "file_name": name} for i, name in enumerate(CAPTIONS)]
    notes = [
        {"image_id": 7 * i, "caption": text, "id": 0}
        for i, texts in enumerate(CAPTIONS.values())
        for text in texts
    ]
    path = folder / "annotations/captions_train2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    root = {"root": str(folder / "train2017")}
    return open_source({"kind": "json", "path": str(path)} | root | options)


def karpathy(folder: Path, **options: Any) -> Source:
    splits = ("train", "restval", "test")
    images = [
        {"filename": name, "filepath": "x", "split": split, "sentences": [{"raw": name + split}]}
        for name, split in zip(CAPTIONS, splits, strict=True)
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return open_source({"kind": "json", "path": str(folder / "dataset.json")} | options)


def test_cocos_pictures_are_records_with_all_captions(tmp_path: Path):
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017/a.png").write_bytes(b"picture")
    source = coco(tmp_path)
    assert [tuple(source.all_captions(i)) for i in range(3)] == [
        ("a cat", "a tabby"),
        ("a dog",),
        ("",),
    ]
    assert source.has_lists() and source[0].image == b"picture" and source[0].caption == "a cat"
    assert source.where(1) == "captions_train2017.json picture b.png"
    assert len(coco(tmp_path, rows=2)) == 2


def test_karpathys_splits_are_chosen(tmp_path: Path):
    assert [karpathy(tmp_path).caption(i) for i in range(1)] == ["a.pngtrain"]
    both = karpathy(tmp_path, split=["train", "restval"])
    assert [both.caption(i) for i in range(len(both))] == ["a.pngtrain", "b.pngrestval"]
    with pytest.raises(
        UserError, match=r"dataset.json: split: unknown 'tset'. Did you mean 'test'"
    ):
        karpathy(tmp_path, split="tset")
    with pytest.raises(UserError, match="COCO's file is one split"):
        coco(tmp_path, split="val")
