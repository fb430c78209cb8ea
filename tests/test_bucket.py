"""Paths and workdirs in a bucket, here fsspec's own in memory; real protocols: tests/faults."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cleanclip_jax import bucket
from cleanclip_jax.bucket import BucketPath
from cleanclip_jax.errors import StartAgain, UserError
from cleanclip_jax.files import folder_written_whole, local_copy, writing, written_whole
from cleanclip_jax.workdir import Workdir, workdir_path


@pytest.fixture
def run() -> Iterator[Workdir]:
    yield Workdir(workdir_path("memory://bucket/run"))
    fsspec.filesystem("memory").store.clear()
    bucket._growing.clear()


def test_an_address_stays_one_through_all_that_pathlib_does():
    path = BucketPath("gs://b/run")
    assert isinstance(path, Path) and str(path) == f"{path}" == "gs://b/run"
    assert str(path / "a" / "b.json") == "gs://b/run/a/b.json"
    assert str(path.with_name("c")) == "gs://b/c" and str(path.parent) == "gs://b"
    assert path.absolute() == path.resolve() == pickle.loads(pickle.dumps(path)) == path
    assert str(next(iter({path: 1}))) == "gs://b/run" and path.name == "run"
    assert (path / "a/b").is_relative_to(path) and type(workdir_path("runs/a")) is type(Path())


def test_files_are_written_read_listed_and_removed(run: Workdir):
    assert not run.path.exists() and not run.has("a.json") and run.lines("m.jsonl") == []
    run.write_json("a.json", {"é": 1})
    run.write_lines("m.jsonl", [{"step": 1}])
    with written_whole(run / "sub/f") as scratch, pytest.raises(ZeroDivisionError):
        scratch.write_bytes(b"1")
        raise ZeroDivisionError
    with folder_written_whole(run / "d") as scratch:
        (scratch / "e").mkdir()
        (scratch / "e/f").write_text("g")
    assert run.read_json("a.json") == {"é": 1} and run.lines("m.jsonl") == [{"step": 1}]
    path = run.path
    assert isinstance(path, BucketPath)
    assert path.files() == ["a.json", "d/e/f", "m.jsonl", "sub/f"]
    assert [each.name for each in path.iterdir()] == ["a.json", "d", "m.jsonl", "sub"]
    assert [each.name for each in path.glob("*.json")] == ["a.json"] and path.is_dir()
    assert (local_copy(run / "d") / "e/f").read_text() == "g"
    assert local_copy(run / "d/e/f").read_text() == "g"
    run.remove("a.json")
    run.remove("a.json")
    assert not run.has("a.json")
    with pytest.raises(UserError, match=r"memory://bucket/run/a.json is not there"):
        run.read_json("a.json")


def test_a_failed_write_leaves_what_was_there(run: Workdir):
    run.write("a", "old")
    with pytest.raises(ZeroDivisionError), written_whole(run / "a") as scratch:
        scratch.write_text("new")
        raise ZeroDivisionError
    assert (run / "a").read_text() == "old"


def test_rows_are_gathered_and_put_whole(run: Workdir, monkeypatch: pytest.MonkeyPatch):
    """At once, then every half minute, for larger files less often, and when the part ends."""
    now, puts = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pipe = MemoryFileSystem.pipe_file

    def counted(store: MemoryFileSystem, path: str, value: bytes, **more: Any) -> None:
        puts.append(len(value))
        pipe(store, path, value, **more)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", counted)
    run.write_lines("m.jsonl", [{"step": 0}])
    with writing(run.path):
        for step in range(1, 100):
            run.append("m.jsonl", {"step": step})
            now[0] += 1.0
        assert len(puts) == 1 + 4
        assert len(run.lines("m.jsonl")) == 100  # this process sees what waits
    assert len(puts) == 6 and puts[-1] == len(
        fsspec.filesystem("memory").cat("/bucket/run/m.jsonl")
    )
    run.write_lines("m.jsonl", run.lines("m.jsonl")[:50])
    run.append("m.jsonl", {"long": "x" * 2_000_000})
    now[0] += 50
    run.append("m.jsonl", {"step": 1})
    assert len(puts) == 8  # two megabytes wait for a minute
    run.flush()
    assert len(puts) == 9 and len(run.lines("m.jsonl")) == 52


def test_what_a_library_writes_on_a_disk_comes_with_a_flush(run: Workdir, tmp_path: Path):
    (run.folder("tensorboard") / "events").write_text("one")
    run.flush()
    (run.folder("tensorboard") / "events").write_text("two")
    assert (run / "tensorboard/events").read_text() == "one"
    run.flush()
    assert (run / "tensorboard/events").read_text() == "two"
    here = Workdir(tmp_path)
    here.flush()
    assert here.folder("tensorboard") == tmp_path / "tensorboard"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (ConnectionError("reset by\npeer"), StartAgain, "run/a can't be reached: reset by peer; "),
        (FileNotFoundError("x"), UserError, "run/a can't be written: No such file or bucket; "),
    ],
)
def test_a_store_that_fails_is_one_line(
    run: Workdir,
    failure: Exception,
    kind: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
):
    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fails)
    with pytest.raises(kind, match=f"^memory://bucket/{message}") as error, writing(run.path):
        run.write("a", "b")
    assert "\n" not in str(error.value)


def test_an_address_that_nothing_opens_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"gopher://x/y can't be opened .*: name a local folder"):
        workdir_path("gopher://x/y")

    def missing(_: str) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=r"install gcsfs\): pip install 'cleanclip-jax\[gcs\]'"):
        workdir_path("gs://x/y")


def test_nothing_is_opened_for_appending(run: Workdir):
    with pytest.raises(OSError, match="in a bucket nothing is opened for 'a'"):
        (run / "a").open("a")
