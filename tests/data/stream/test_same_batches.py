"""The same 1,000 pairs give the same batches whatever they are kept in."""

import csv
import io
import json
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_tfds import build_tfds
from helpers.streams import stream_of
from PIL import Image

from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import make_plan, prepare
from cleanclip_jax.data.shards.repack import repack_shard
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.text.tokenizer import Tokenizer

COUNT, SIDE, BATCH = 1000, 8, 125
CLASSES = ("dog", "cat")
TEMPLATES = ["a {}", "my {}", "{} or so"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs in every form. The first half are dogs, the others cats."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    pictures, captions, labels = [], [], []
    for i in range(COUNT):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8)).save(stream, "png")
        pictures.append(stream.getvalue())
        captions.append(f'caption {i}, "quoted"\tor {"ö" * (i % 3)}\nnot')
        labels.append(2 * i // COUNT)
    names = [f"{label}{CLASSES[label]}/{i:04d}.png" for i, label in enumerate(labels)]
    for name, data in zip(names, pictures, strict=True):
        (folder / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "folder" / name).write_bytes(data)
    rows = [*zip(names, captions, labels, strict=True)]
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        with (folder / "folder" / f"pairs.{kind}").open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            writer.writerows([("image", "caption", "label"), *rows])
    write_parquet(folder, pictures, captions, labels)
    write_tars(folder, pictures, captions, labels)
    images = [str(folder / "folder" / name) for name in names]
    made = [
        {"image": image, "title": caption, "texts": [], "label": label}
        for image, caption, label in zip(images, captions, labels, strict=True)
    ]
    build_tfds(folder, {"train": made})
    return folder


def write_parquet(
    folder: Path, pictures: list[bytes], captions: list[str], labels: list[int]
) -> None:
    columns = {"caption": captions, "label": labels}
    pq.write_table(pa.table({"image": pictures} | columns), folder / "pairs.parquet")
    structs = [{"bytes": data, "path": None} for data in pictures]
    table = pa.table({"image": structs} | columns)
    (folder / "shards").mkdir()
    for shard, start in enumerate(range(0, COUNT, 300)):
        pq.write_table(table.slice(start, 300), folder / f"shards/train-{shard:05d}.parquet")


def write_tars(folder: Path, pictures: list[bytes], captions: list[str], labels: list[int]) -> None:
    (folder / "tars").mkdir()
    for shard, start in enumerate(range(0, COUNT, 300)):
        with tarfile.open(folder / f"tars/{shard:05d}.tar", "w") as tar:
            for i in range(start, min(start + 300, COUNT)):
                notes = {"caption": captions[i], "label": labels[i]}
                files = {"png": pictures[i], "json": json.dumps(notes).encode()}
                files["txt"] = captions[i].encode()
                for ending, data in files.items():
                    about = tarfile.TarInfo(f"{i:09d}.{ending}")
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))


def captioned(folder: Path) -> dict[str, dict[str, Any]]:
    """The sources that keep captions."""
    table = {"kind": "csv", "path": f"{folder}/folder/pairs.csv"}
    return {
        "csv": table,
        "tsv": table | {"kind": "tsv", "path": f"{folder}/folder/pairs.tsv"},
        "parquet of bytes": {"kind": "parquet", "path": f"{folder}/pairs.parquet"},
        "parquet shards of structs": {"kind": "parquet", "path": f"{folder}/shards"},
        "webdataset": {"kind": "webdataset", "path": f"{folder}/tars/{{00000..00003}}.tar"},
        "webdataset by json": {
            "kind": "webdataset",
            "path": f"{folder}/tars",
            "caption": "caption",
        },
        "arrayrecord": {"kind": "arrayrecord", "path": f"{folder}/records"},
        "tfds": {"kind": "tfds", "name": f"{folder}/tiny/1.0.0", "caption": "title"},
        "mixture": {
            "kind": "mixture",
            "sources": {"b": table | {"rows": (300, None)}, "a": table | {"rows": 300}},
        },
    }


def labelled(folder: Path) -> dict[str, dict[str, Any]]:
    """The sources that keep labels, captioned by templates."""
    table = {"kind": "csv", "path": f"{folder}/folder/pairs.csv", "class_name": "label"}
    classes = {"classes": CLASSES}
    return {
        "csv": table | classes,
        "labels": {"kind": "labels", "path": table["path"]} | classes,
        "folder": {
            "kind": "folder",
            "path": f"{folder}/folder",
            "names": {"0dog": "dog", "1cat": "cat"},
        },
        "parquet": table | classes | {"kind": "parquet", "path": f"{folder}/pairs.parquet"},
        "tfds": {"kind": "tfds", "name": f"{folder}/tiny/1.0.0", "class_name": "label"},
    }


def batches(source: Source) -> list[Any]:
    """An epoch."""
    tokenizer = Tokenizer.train([source.caption(i) for i in range(0, COUNT, 20)], 400, 16)
    options: Any = {"image_size": SIDE, "batch_size": BATCH, "seed": 3}
    with stream_of(source, tokenizer, **options) as stream:
        return list(islice(stream, COUNT // BATCH))


def assert_all_the_same(sources: dict[str, Source]) -> None:
    first, *others = sources
    expected = batches(sources[first])
    assert len(np.unique(np.concatenate([batch["index"] for batch in expected]))) == COUNT
    for name in others:
        assert len(sources[name]) == COUNT
        for batch, one in zip(expected, batches(sources[name]), strict=True):
            for key in ("images", "tokens", "index", "bad"):
                assert np.array_equal(batch[key], one[key]), (name, key)


@pytest.mark.slow
def test_captioned_pairs_give_the_same_batches(pairs: Path):
    configs = captioned(pairs)
    sources = {name: open_source(config) for name, config in configs.items() if "array" not in name}
    plan = make_plan(sources["csv"], shards=4)

    def run(plan: Any, output: Output, _: int) -> None:
        for number in range(plan.shards):
            repack_shard(sources["csv"], plan, number, output, lambda _: None)

    prepare(plan, None, Output(f"{pairs}/records"), 0.0, run)
    sources["arrayrecord"] = open_source(configs["arrayrecord"])
    assert_all_the_same(sources)


@pytest.mark.slow
def test_labelled_pictures_give_the_same_batches(pairs: Path):
    configs = labelled(pairs)
    sources = {name: open_source(c | {"templates": TEMPLATES}) for name, c in configs.items()}
    assert_all_the_same(sources)
    for source in sources.values():
        assert source.class_names == CLASSES and source.labels().sum() == COUNT // 2
