import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.data.shards.layout import Output, pack, shard_writer
from cleanclip_jax.data.shards.packing import make_plan, prepare
from cleanclip_jax.data.shards.repack import repack_shard
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord

ROWS, SHARDS = 40, 3


@pytest.fixture
def source(write_csv: Callable) -> Source:
    return open_source({"kind": "csv", "path": str(write_csv(ROWS)), "class_name": "animal"})


@pytest.fixture
def make(source: Source) -> Callable[[Path | str], str]:
    """Prepares the source in a folder, in this process."""

    def prepared(folder: Path | str) -> str:
        def run(plan, output, _allowed):
            for number in range(plan.shards):
                repack_shard(source, plan, number, output, lambda _: None)

        plan = make_plan(source, SHARDS)
        prepare(plan, source.class_names, Output(str(folder)), 0.5, run)
        return str(folder)

    return prepared


@pytest.fixture
def folder(make: Callable, tmp_path: Path) -> Path:
    return Path(make(tmp_path / "shards"))


def flip(path: Path, place: int | None = None) -> None:
    """Changes one bit of a file, in its middle unless a place is given."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def refused(folder: Path | str) -> str:
    with pytest.raises(UserError) as error:
        open_arrayrecord(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def same_records(made: Source, source: Source) -> None:
    assert len(made) == len(source)
    for i in range(len(source)):
        assert made[i] == source[i]
        assert made.caption(i) == source.caption(i) and made.where(i) == source.where(i)
    assert made.labels().tolist() == source.labels().tolist()


def test_shards_give_the_records_of_their_source(folder: Path, source: Source):
    made = open_arrayrecord(folder)
    assert isinstance(made, Source) and made.class_names == ("cat", "dog")
    assert len(list(folder.glob("*.array_record"))) == SHARDS
    same_records(made, source)


def test_it_pickles_as_paths(folder: Path, source: Source):
    made = open_arrayrecord(folder)
    made[0]
    data = pickle.dumps(made)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert copy.fingerprint == made.fingerprint
    same_records(copy, source)


def test_the_same_data_elsewhere_has_the_same_fingerprint(folder: Path, tmp_path: Path):
    moved = shutil.copytree(folder, tmp_path / "other")
    for path in moved.iterdir():
        path.touch()
    assert open_arrayrecord(moved).fingerprint == open_arrayrecord(folder).fingerprint


@pytest.mark.parametrize("name", ["pairs-00001-of-00003.array_record", "index.arrow"])
def test_one_other_byte_is_noticed(folder: Path, name: str):
    open_arrayrecord(folder)
    flip(folder / name)
    assert name in refused(folder) and "its content is not what dataset.json says" in refused(
        folder
    )


def test_an_edited_description_is_noticed(folder: Path):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace('"cat"', '"cow"'))
    assert "modified since it was written" in refused(folder)
    for text in ("{}", '{"version": 1}', '{"version": 1, "shards": [{"nam": 1}]}', "["):
        path.write_text(text)
        error = refused(folder)
        assert f"{path}" in error and "copy it anew or prepare the data anew" in error


def test_a_missing_or_cut_shard_is_one_line(folder: Path):
    shard = folder / "pairs-00002-of-00003.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    assert f"{shard}: {len(data) // 2} bytes where dataset.json says {len(data)}" in refused(folder)
    shard.unlink()
    assert f"{shard}: missing, as 1 of the 4 files" in refused(folder)


def test_shards_alone_are_indexed_once(folder: Path, source: Source, cache: Path):
    (folder / "dataset.json").unlink()
    (folder / "index.arrow").unlink()
    made = open_arrayrecord(folder)
    assert made.class_names is None
    same_records(made, source)
    index = next((cache / "tables").glob("*.arrow"))
    written = index.stat().st_ino
    assert open_arrayrecord(folder).fingerprint == made.fingerprint
    assert index.stat().st_ino == written
    (folder / "pairs-00001-of-00003.array_record").unlink()
    assert "2 of the 3 shards pairs-*-of-00003.array_record are there" in refused(folder)


def test_a_damaged_record_is_bad_and_the_others_are_not(folder: Path, source: Source):
    made = open_arrayrecord(folder)
    (folder / "dataset.json").unlink()
    shard = folder / "pairs-00001-of-00003.array_record"
    flip(shard, shard.read_bytes().index(source[20].image[:64]) + 40)
    reopened = open_arrayrecord(folder)
    for damaged in (made, reopened):
        with pytest.raises(BadRecord, match=r"in pairs-00001-of-00003.array_record, record 7: .*"):
            damaged[20]
        assert damaged[19] == source[19] and damaged[21] == source[21]
    # A reader that had the index tells the row; one that made the index anew cannot know it.
    assert made.where(20) == "pairs.csv row 21" and made.caption(20) == source.caption(20)
    assert "array_record record 7" in reopened.where(20) and reopened.caption(20) == ""


def test_what_is_no_prepared_folder_is_one_line(tmp_path: Path):
    assert "no such folder" in refused(tmp_path / "nowhere")
    folder = tmp_path / "other"
    folder.mkdir()
    assert "no *.array_record in it" in refused(folder)
    (folder / "a.array_record").write_bytes(b"<html>" * 1000)
    assert "a.array_record: no ArrayRecord file, or one cut short" in refused(folder)
    with shard_writer(folder / "a.array_record") as write:
        write(b"\x0a\x00another format")
    assert "no record in its shards is a pair as cleanclip prepare writes them" in refused(folder)


def test_records_need_not_come_from_prepare(tmp_path: Path, png: Callable):
    with shard_writer(tmp_path / "mine.array_record") as write:
        for i in range(5):
            write(pack(png(i), f"caption {i}", i % 2, f"mine {i}", i))
    made = open_arrayrecord(tmp_path)
    assert len(made) == 5 and made.labels().tolist() == [0, 1, 0, 1, 0]
    assert made[3].image == png(3) and made[3].caption == "caption 3" and made.where(3) == "mine 3"


def test_a_remote_folder_is_fetched_once(make: Callable, source: Source, cache: Path):
    url = make("memory://bucket/shards")
    made = open_arrayrecord(url)
    same_records(made, source)
    copies = {path: path.stat().st_mtime_ns for path in (cache / "shards").glob("*/*")}
    assert len(copies) == SHARDS + 3
    assert open_arrayrecord(url).fingerprint == made.fingerprint
    assert copies == {path: path.stat().st_mtime_ns for path in (cache / "shards").glob("*/*")}

    store = fsspec.filesystem("memory")
    content = json.loads(store.cat_file("/bucket/shards/dataset.json"))
    store.rm(f"/bucket/shards/{content['shards'][1]['name']}")
    assert "00001-of-00003.array_record: missing" in refused(url)
    assert "cannot be read" in refused("memory://bucket/nowhere")
