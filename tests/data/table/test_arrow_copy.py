"""Fingerprints stand in the workdirs and manifests of earlier versions: they may not move."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanclip_jax.data.mixture import Mixture
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import make_plan, prepare
from cleanclip_jax.data.shards.repack import repack_shard
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import Subset
from cleanclip_jax.errors import UserError

RED = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0"
    "000003010100c9fe92ef0000000049454e44ae426082"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same few bytes as a CSV, a tar and class folders; the CSV's third row is broken."""
    for name in ("a.png", "b.png", "classes/cat/a.png", "classes/dog/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(RED)
    rows = 'image,caption,animal\na.png,one,cat\nb.png,"two, three",dog\nb.png\n'
    (tmp_path / "pairs.csv").write_text(rows)
    files = {"0.png": RED, "0.txt": b"one", "1.png": RED, "1.txt": b"two"}
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return tmp_path


CHOSEN = {"where": {"animal": ["cat", "dog"]}, "rows": 2, "templates": ["a {}"]}


@pytest.mark.parametrize(
    ("kind", "name", "options", "fingerprint"),
    [
        ("csv", "pairs.csv", {}, "f7ef22680299a89af7568a5566abe91c"),
        (
            *("csv", "pairs.csv", {"class_name": "animal", **CHOSEN}),
            "8ab98411c49c2f583454c58162dcb1a7",
        ),
        (
            *("csv", "pairs.csv", {"class_name": "animal", "classes": ["dog", "cat"]}),
            "d790d2d53f1209b4f42a89287bf3c4ea",
        ),
        ("webdataset", "0.tar", {}, "08ad458cc409a6392efd367f61bbe65e"),
        ("folder", "classes", {}, "ef695f3f520070cf2d1d92e779131a90"),
    ],
)
def test_fingerprints_are_those_of_earlier_versions(
    folder: Path, kind: str, name: str, options: dict[str, Any], fingerprint: str
):
    source = open_source({"kind": kind, "path": str(folder / name)} | options)
    assert source.fingerprint.startswith(fingerprint)


def test_prepared_bytes_are_those_of_earlier_versions(folder: Path):
    config = {"kind": "csv", "path": str(folder / "pairs.csv"), "class_name": "animal"}
    source = open_source(config)

    def run(plan: Any, output: Any, _allowed: int) -> None:
        for number in range(plan.shards):
            repack_shard(source, plan, number, output, lambda _: None)

    output = Output(str(folder / "out"))
    made = prepare(make_plan(source, 2), source.class_names, output, 0.5, run)
    assert made["bad_rows"] == 1
    assert made["index"]["sha256"].startswith("c806ed955ff82b4b79cfa1c587967859")
    assert made["fingerprint"].startswith("8f3ce48911ddb183a5ad1b36e7b45f60")


def of_captions(path: Path, captions: list[Any]) -> Path:
    pq.write_table(pa.table({"image": [b"x"] * len(captions), "caption": captions}), path)
    return path


def test_a_column_of_lists_gives_all_captions(tmp_path: Path):
    lists = [["one", " ", None, "two", "NaN"], [], None, ["three"]]
    options = {"kind": "parquet", "path": str(of_captions(tmp_path / "pairs.parquet", lists))}
    source = open_source(options)
    expected = [("one", "two"), ("",), ("",), ("three",)]
    assert [tuple(source.all_captions(i)) for i in range(4)] == expected
    assert [source.caption(i) for i in range(4)] == ["one", "", "", "three"]
    assert source[0].caption == "one" and pickle.loads(pickle.dumps(source)).all_captions(0)[1]
    part = Subset(source, np.array([0, 3]))
    assert [tuple(part.all_captions(i)) for i in range(2)] == expected[::3]
    assert tuple(Mixture({"a": (source, 1.0)}).all_captions(0)) == ("one", "two")
    single = {**options, "path": str(of_captions(tmp_path / "single.parquet", ["one", None]))}
    assert [tuple(open_source(single).all_captions(i)) for i in range(2)] == [("one",), ("",)]


def test_files_with_and_without_lists_are_not_mixed(tmp_path: Path):
    of_captions(tmp_path / "a.parquet", ["one"])
    of_captions(tmp_path / "b.parquet", [["one", "two"]])
    with pytest.raises(UserError, match=r"b\.parquet: column 'caption' holds captions in another"):
        open_source({"kind": "parquet", "path": str(tmp_path / "*.parquet")})
