"""Files: read with a bound and checked before use, written whole or not at all."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import (
    folder_written_whole,
    read_bytes,
    read_json,
    read_lines,
    user_path,
    write_whole,
)
from cleanclip_jax.start.head import load_head
from cleanclip_jax.start.torch.origin import load_origin
from cleanclip_jax.workdir import ORIGIN, Workdir


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not readable as JSON: Expecting property name"),
        (b'"\xff"', "is not readable as JSON: 'utf-8' codec"),
        (b"[" * 100 + b"]" * 100, "is nested too deep"),
        (b"[" * 100_000, "is nested too deep"),
        (b"1" * 5000, "is not readable as JSON: Exceeds the limit"),
        (None, "is not there"),
    ],
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, data: bytes | None, message: str):
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "a.json", object)
    assert str(error.value).startswith(f"{tmp_path / 'a.json'} {message}")
    assert "\n" not in str(error.value)


def odd_places(folder: Path) -> dict[str, Path]:
    """A pipe, a device, a folder, a loop and a link that leads nowhere."""
    os.mkfifo(folder / "pipe")
    (folder / "folder" / "inner").mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("not-there")
    (folder / "device").symlink_to("/dev/zero")
    names = ("pipe", "folder", "loop", "nowhere", "device")
    return {name: folder / name for name in names}


@pytest.mark.parametrize("name", ["pipe", "folder", "loop", "nowhere", "device"])
def test_only_plain_files_are_read_and_written_over(tmp_path: Path, name: str):
    path = odd_places(tmp_path)[name]
    for read in (read_bytes, read_json, read_lines):
        if read is not read_lines or name not in ("nowhere", "loop"):
            with pytest.raises((UserError, OSError), match=name):
                read(path)
    before = os.lstat(path)
    with pytest.raises(UserError, match=f"{name} is a link, device or folder, which is not"):
        write_whole(path, "x")
    with (
        pytest.raises(UserError, match=f"{name} is a link, device or folder"),
        folder_written_whole(path),
    ):
        pass
    assert os.path.samestat(before, os.lstat(path))
    assert not list(tmp_path.glob(".*.part"))


def test_a_file_larger_than_its_bound_is_not_read(tmp_path: Path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(30 << 30)
    with pytest.raises(UserError, match="is larger than 16 MiB: refused"):
        read_json(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\0b", "embedded null byte"),
        ("x" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("file/inner", "Not a directory"),
    ],
)
def test_a_path_that_no_file_can_have_is_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    odd_places(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"can't be used: {message}") as error:
        user_path(text)
    assert str(error.value).isprintable()


def test_a_users_folder_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/x")
    assert user_path("~/a") == Path("/home/x/a")
    with pytest.raises(UserError, match="there is no user nosuchuser"):
        user_path("~nosuchuser/a")


def test_long_names_and_names_that_are_no_utf8_are_written(tmp_path: Path):
    for name in ("x" * 250, os.fsdecode(b"a\xff")):
        write_whole(tmp_path / name, json.dumps(name, ensure_ascii=False))
        assert read_json(tmp_path / name, str) == name


def test_bad_lines_are_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "a.jsonl"
    bad = ('{"step": "2"}', "[]", "\0\0", "[" * 5000, '{"loss": 1}')
    path.write_text("\n".join(('{"step": 1}', *bad, '{"step": 7}', '{"step": 8')))
    with caplog.at_level(logging.WARNING):
        assert read_lines(path, {"step": int}) == [{"step": 1}, {"step": 7}]
    (record,) = caplog.records
    assert "a.jsonl: passed over 5 lines: line 2: step is text, not" in record.getMessage()
    caplog.clear()
    path.write_text('{"step": 1}\n{"st')  # as a kill leaves it
    assert read_lines(path) == [{"step": 1}] and not caplog.records
    assert read_lines(tmp_path / "none") == []


def test_a_pipe_in_a_workdir_is_no_missing_file(tmp_path: Path):
    """A run with a pipe for head.json would be measured by prompts in silence."""
    run = Workdir(tmp_path)
    assert not run.has("head.json") and load_head(run) is None and load_origin(tmp_path) is None
    for name, load in (
        ("head.json", lambda: load_head(run)),
        (ORIGIN, lambda: load_origin(run.path)),
    ):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is a folder, pipe or device"):
            load()


def test_a_file_that_is_written_anew_loses_no_line(tmp_path: Path):
    run, bad = Workdir(tmp_path), b'{"step": \xff\n[]\n'
    for name in ("metrics.jsonl", "bad_rows.1.jsonl"):
        (tmp_path / name).write_bytes(b'{"step": 1, "index": 1}\n' + bad + b'{"torn')
        for _ in range(2):
            run.write_lines(name, run.lines(name)[:1])
            assert (tmp_path / name).read_text().count("\n") == (name == "metrics.jsonl")
    assert (tmp_path / "metrics.jsonl.bad").read_bytes() == b'{"step": \\xff\n[]\n'
    # Of bad_rows.1.jsonl the row is none either: it lacks where and reason.
    assert (tmp_path / "bad_rows.1.jsonl.bad").read_text().count("\n") == 3


STOPPED = """
import sys, time, types
from pathlib import Path
from cleanclip_jax import cli, files

def main(_):
    with files.written_whole(Path(sys.argv[1])), files.folder_written_whole(Path(sys.argv[2])):
        print("writing", flush=True)
        time.sleep(60)

sys.modules["cleanclip_jax.jobs.convert"] = types.SimpleNamespace(main=main)
cli.main(["convert"])
"""


def test_sigterm_leaves_nothing_half_written(tmp_path: Path):
    args = [sys.executable, "-c", STOPPED, str(tmp_path / "a"), str(tmp_path / "b")]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert list(tmp_path.iterdir()) == []
