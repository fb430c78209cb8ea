"""Files of captions: COCO's, Karpathy's, tables with repeated pictures, lists in parquet."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cleanclip_jax.data.stream.in_order import read_picture
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.captions import open_captioned
from cleanclip_jax.views.decode import BadRecord

CAPTIONS = {"a.png": ["a cat", "a tabby"], "b.png": ["a dog"], "c.png": ["one", "two", "three"]}


def png(shade):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(out, "png")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    for shade, name in enumerate(CAPTIONS):
        (tmp_path / name).write_bytes(png(shade))
    return tmp_path


def as_csv(folder):
    rows = [f'{name},"{text}"' for name, texts in CAPTIONS.items() for text in texts]
    rows.insert(3, rows.pop(0))  # a picture's captions need not follow one another
    (folder / "pairs.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
    return {"kind": "csv", "path": str(folder / "pairs.csv")}


def as_coco(folder):
    images = [{"id": 10 * i, "file_name": name} for i, name in enumerate(CAPTIONS)]
    notes = [
        {"image_id": 10 * i, "caption": text, "id": 0}
        for i, texts in enumerate(CAPTIONS.values())
        for text in texts
    ]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": notes[::-1]}))
    return {"kind": "json", "path": str(folder / "coco.json")}


def as_karpathy(folder):
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]}
        for name, texts in CAPTIONS.items()
    ]
    images.insert(1, {"filename": "no.png", "split": "train", "sentences": []})
    (folder / "k.json").write_text(json.dumps({"images": images}))
    return {"kind": "json", "path": str(folder / "k.json"), "root": str(folder)}


def as_parquet(folder):
    names = [*CAPTIONS, "a.png"]
    table = pa.table(
        {
            "image": [(folder / name).read_bytes() for name in names],
            "caption": [*CAPTIONS.values(), ["of train"]],
            "split": ["test", "test", "test", "train"],
        }
    )
    pq.write_table(table, folder / "pairs.parquet")
    path = str(folder / "pairs.parquet")
    return {"kind": "parquet", "path": path, "where": {"split": "test"}}


@pytest.mark.parametrize("write", [as_csv, as_coco, as_karpathy, as_parquet])
def test_each_picture_once_with_its_captions(write, folder, cache):
    captioned = open_captioned(write(folder))
    shades = [int(read_picture(captioned.source, i)[0, 0, 0]) for i in range(len(captioned.source))]
    assert sorted(shades) == [0, 1, 2] and captioned.empty == 0
    names, by_picture = list(CAPTIONS), {}
    for text, owner in zip(captioned.captions, captioned.owner, strict=True):
        by_picture.setdefault(names[shades[owner]], set()).add(text)
    assert by_picture == {name: set(texts) for name, texts in CAPTIONS.items()}
    texts, place = captioned.of(np.array([2, 0]))
    assert sorted(place) == list(place) or set(place) == {0, 1}
    for text, at in zip(texts, place, strict=True):
        assert text in CAPTIONS[names[shades[[2, 0][at]]]]
    # Workers read the same pictures from a copy that holds a path.
    copy = pickle.loads(pickle.dumps(captioned.source))
    assert copy.fingerprint == captioned.source.fingerprint and len(copy) == 3
    np.testing.assert_array_equal(read_picture(copy, 1), read_picture(captioned.source, 1))


def test_one_caption_a_record_of_any_source(cache):
    captioned = open_captioned({"kind": "digits", "split": "test"})
    assert len(captioned.captions) == len(captioned.source) == 400
    assert captioned.owner.tolist() == list(range(400))


def test_empty_captions_and_missing_pictures_are_counted(folder):
    options = as_csv(folder)
    with open(options["path"], "a") as stream:
        stream.write("d.png,\n,a caption of nothing\nb.png\n")
    captioned = open_captioned(options)
    assert captioned.empty == 2 and len(captioned.source) == 5
    for index in (3, 4):
        with pytest.raises(BadRecord, match=r"pairs\.csv picture"):
            read_picture(captioned.source, index)


def test_the_fingerprint_is_of_names_and_sizes(folder, tmp_path):
    options = as_csv(folder)
    first = open_captioned(options).source.fingerprint
    assert open_captioned(options).source.fingerprint == first
    (folder / "a.png").write_bytes(png(7) + b"longer")
    assert open_captioned(options).source.fingerprint != first


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("image,text\na,b\n", {"kind": "csv"}, "column: unknown 'caption'. Known: image, text"),
        ("image,caption\n", {"kind": "csv"}, "it has no rows"),
        ('{"images": []}', {"kind": "json"}, "no picture in it"),
        (
            '{"images": [], "annotations": []}',
            {"kind": "json", "split": "val"},
            "COCO's file is one split",
        ),
        ("image,caption\na,\n", {"kind": "csv"}, "no picture has a caption"),
        ("{}", {"kind": "json"}, "neither COCO's captions nor Karpathy's"),
        ("[", {"kind": "json"}, "neither COCO's captions nor Karpathy's"),
        (
            '{"images": [], "annotations": [{"image_id": 3, "caption": ""}]}',
            {"kind": "json"},
            "of picture 3, which",
        ),
        ("", {"kind": "csv", "colum": "x"}, "retrieval (csv): unknown 'colum'"),
        (
            '{"images": [{"id": 1, "file_name": 2}], "annotations": []}',
            {"kind": "json"},
            "images[0].file_name is a whole number, not text",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, content, options, message):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        open_captioned({"path": str(path), **options})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_file_and_no_path(tmp_path):
    with pytest.raises(UserError, match=r"none.csv: No such file .*check the data's path"):
        open_captioned({"kind": "csv", "path": str(tmp_path / "none.csv")})
    with pytest.raises(UserError, match="path is missing"):
        open_captioned({"kind": "json"})
    with pytest.raises(UserError, match="No such file"):
        open_captioned({"kind": "json", "path": str(tmp_path / "none.json")})
