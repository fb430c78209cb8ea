import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import Runner, make_plan, prepare
from cleanclip_jax.data.shards.repack import Plan, repack_picture, repack_shard
from cleanclip_jax.data.shards.runners import in_processes
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord, decode


def here(source: Source) -> Runner:
    """Makes the shards one after the other in this process."""

    def run(plan, output, _allowed):
        for number in range(plan.shards):
            repack_shard(source, plan, number, output, lambda _: None)

    return run


def make(
    source: Source, folder: Path, run: Runner | None = None, share: float = 0.5, **options: Any
) -> dict[str, Any]:
    plan = make_plan(source, **{"shards": 3} | options)
    return prepare(plan, source.class_names, Output(str(folder)), share, run or here(source))


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        make(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def bad_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().splitlines()]


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=90)
    return stream.getvalue()


@pytest.fixture
def pairs(write_csv: Callable) -> Source:
    return open_source({"kind": "csv", "path": str(write_csv(40))})


@pytest.fixture
def large(tmp_path: Path) -> dict[str, str]:
    """A source of pictures that take a while: 240 pairs of 20 pictures, 150 kB each."""
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.jpg").write_bytes(jpeg(480, 400, i))
    lines = [f"{i % 20}.jpg,caption {i}" for i in range(240)]
    (folder / "pairs.csv").write_text("image,caption\n" + "\n".join(lines))
    return {"kind": "csv", "path": str(folder / "pairs.csv")}


@pytest.fixture
def command(large: dict, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `cleanclip prepare` on the large source, in a new process group."""
    started = []

    def start(*wrapper: str) -> subprocess.Popen:
        flags = ["--source", repr(large), "--output", str(tmp_path / "out"), "--shards=12"]
        program = [sys.executable, "-m", "cleanclip_jax.cli", "prepare", *flags, "--workers=2"]
        done = subprocess.Popen(
            [*wrapper, *program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(done)
        return done

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # the whole group: workers may have outlived it
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits for something, and returns it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
    return value


def error_line(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    *others, line = err.splitlines()
    assert line.startswith("cleanclip: ") and all("converting" in other for other in others)
    return line


def test_the_number_of_processes_changes_no_byte(pairs: Source, tmp_path: Path):
    for folder, run in [("a", here(pairs)), ("b", in_processes(pairs, 2))]:
        make(pairs, tmp_path / folder, run)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_where_it_was(command: Callable, large: dict, tmp_path: Path):
    out = tmp_path / "out"
    for finished in (2, 5):
        process = command()
        until(lambda: len(list(out.glob(".prepare/*.arrow"))) >= finished)  # noqa: B023
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(UserError, match="has not finished here; the same command goes on"):
            open_arrayrecord(out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    assert 5 <= len(before) < 12
    process = command()
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "prepared: 240 pairs in 12 shards" in shown
    # A shard whose notes were not written in time is made again.
    assert sum(path.stat().st_mtime_ns == then for path, then in before.items()) >= 5
    assert not (out / ".prepare").exists()
    make(open_source(large), tmp_path / "at once", shards=12)
    assert content(out) == content(tmp_path / "at once")


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(command: Callable, tmp_path: Path):
    process = command()
    until(lambda: list(tmp_path.glob("out/.prepare/*.arrow")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(int(workers[-1]), signal.SIGKILL)
    assert "a worker ended by itself" in error_line(process)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 5)


@pytest.mark.slow
def test_workers_end_with_the_parent(command: Callable, tmp_path: Path):
    process = command()
    until(lambda: list(tmp_path.glob("out/.prepare/*.arrow")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()

    def running() -> list[str]:
        return [
            pid
            for pid in children
            if Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
        ]

    until(lambda: not running(), 10)


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False])
def test_sigterm_ends_with_75_and_the_same_command_goes_on(
    command: Callable, tmp_path: Path, group: bool
):
    process = command()
    until(lambda: list(tmp_path.glob("out/.prepare/*.arrow")))
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert error.splitlines()[-1].endswith("out: stopped by SIGTERM; the same command goes on.")
    assert not list(tmp_path.glob("out/.prepare/part-*"))
    assert "prepared: 240 pairs" in command().communicate(timeout=60)[0]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_nothing_half_written(command: Callable, tmp_path: Path):
    # Files of 1 MiB at most; a shard takes 3 MB.
    line = error_line(command("bash", "-c", 'ulimit -f 1024; exec "$@"', "bash"))
    assert "out: cannot be read or written: write() failed: File too large" in line
    out = tmp_path / "out"
    assert [path.name for path in out.iterdir()] == [".prepare"]
    process = command()
    assert "prepared: 240 pairs" in process.communicate(timeout=60)[0]
    assert len(open_arrayrecord(out)) == 240


def test_an_output_that_cannot_be_written_is_one_line(pairs: Source, tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    assert "Not a directory" in refused(pairs, tmp_path / "file" / "out")
    assert "file/out: cannot be read or written" in refused(pairs, tmp_path / "file" / "out")


def test_bad_rows_are_left_out_and_named(write_csv: Callable, tmp_path: Path):
    path = write_csv(40, missing=[3], broken=[9], silent=[30, 39])
    source = open_source({"kind": "csv", "path": str(path)})
    made = make(source, tmp_path / "out", in_processes(source, 2), share=0.1)
    assert made["records"] == 36 and made["bad_rows"] == 4
    lines = bad_rows(tmp_path / "out")
    assert [line["index"] for line in lines] == [3, 9, 30, 39]
    assert [line["where"] for line in lines] == [f"pairs.csv row {i + 1}" for i in (3, 9, 30, 39)]
    for line, reason in zip(
        lines, ["No such file", "truncated", "caption", "caption"], strict=True
    ):
        assert reason in line["reason"] and "pairs.csv row" not in line["reason"]
    opened = open_arrayrecord(tmp_path / "out")
    left = [i for i in range(40) if i not in (3, 9, 30, 39)]
    assert [opened[i] for i in range(36)] == [source[i] for i in left]


@pytest.mark.parametrize("processes", [0, 2])
def test_too_many_bad_rows_stop_it_and_are_reported(
    write_csv: Callable, tmp_path: Path, processes: int
):
    path = write_csv(40, missing=range(5, 25))
    source = open_source({"kind": "csv", "path": str(path)})
    run = in_processes(source, processes) if processes else here(source)
    line = refused(source, tmp_path / "out", run, share=0.1)
    assert "unreadable rows, more than the 4 of 40 that max_bad_share allows" in line
    assert "out/bad_rows.jsonl); the last: pairs.csv row" in line
    lines = bad_rows(tmp_path / "out")
    assert len(lines) > 4 and {line["index"] for line in lines} <= set(range(5, 25))
    assert not (tmp_path / "out/dataset.json").exists()
    # A larger share takes what is there up.
    assert make(source, tmp_path / "out", share=0.5)["bad_rows"] == 20


def test_it_stops_as_soon_as_too_many_are_bad(command: Callable, large: dict, tmp_path: Path):
    rows = ["gone.jpg,caption"] * 40 + [f"{i % 20}.jpg,caption" for i in range(2400)]
    Path(large["path"]).write_text("image,caption\n" + "\n".join(rows))
    line = error_line(command())
    assert "unreadable rows, more than the 24 of 2440 that max_bad_share allows" in line
    assert "gone.jpg" in line
    assert len(list(tmp_path.glob("out/*.array_record"))) < 6
    assert 24 < len(bad_rows(tmp_path / "out")) <= 40


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\0" * 99, b'{"index": -1}\n', b"[" * 9999])
def test_damaged_notes_are_refused_or_made_anew(pairs: Source, tmp_path: Path, damage: bytes):
    def stopped(plan: Plan, output: Output, allowed: int) -> None:
        here(pairs)(plan, output, allowed)
        raise UserError("stopped")

    for name in (".prepare/plan.json", ".prepare/00001.arrow", ".prepare/00001.bad.jsonl"):
        folder = tmp_path / name.replace("/", "")
        refused(pairs, folder, stopped)
        (folder / name).write_bytes(damage)
        if "plan" in name:
            assert "did not write" in refused(pairs, folder)
        else:
            assert make(pairs, folder)["records"] == 40
            assert len(open_arrayrecord(folder)) == 40


def test_rows_mended_before_it_goes_on_are_taken_in(
    write_csv: Callable, png: Callable, tmp_path: Path
):
    path = write_csv(40, missing=[3, 20])
    source = open_source({"kind": "csv", "path": str(path)})
    refused(source, tmp_path / "out", share=0)
    (path.parent / "3.png").write_bytes(png(3))
    assert make(source, tmp_path / "out", share=0.1)["bad_rows"] == 1
    assert open_arrayrecord(tmp_path / "out")[3].image == png(3)


def test_a_set_without_captions_keeps_its_pictures(write_csv: Callable, tmp_path: Path):
    config = {"kind": "csv", "path": str(write_csv(12)), "caption": None, "class_name": "animal"}
    source = open_source(config)
    made = make(source, tmp_path / "out", share=0)
    assert made["records"] == 12 and made["class_names"] == ["cat", "dog"]
    assert open_arrayrecord(tmp_path / "out")[5] == source[5]


def test_several_captions_a_picture_are_refused(tmp_path: Path):
    table = {"image": [b"", b""], "caption": [["one"], ["two", "three"]]}
    pq.write_table(pa.table(table), tmp_path / "pairs.parquet")
    source = open_source({"kind": "parquet", "path": str(tmp_path / "pairs.parquet")})
    with pytest.raises(UserError, match=r"several captions, .* a row for each"):
        make_plan(source)


def test_decoded_pictures_become_png(tmp_path: Path):
    source = open_source({"kind": "digits", "split": "test"})
    make(source, tmp_path / "out")
    made = open_arrayrecord(tmp_path / "out")
    assert isinstance(made[7].image, bytes) and made[7].image.startswith(b"\x89PNG")
    assert (decode(made[7].image, "") == source[7].image).all()
    assert made.class_names == source.class_names and made[7].label == source[7].label


def test_larger_pictures_are_resized_and_smaller_keep_their_bytes():
    made = repack_picture(jpeg(100, 61), "", 32, 95)
    with Image.open(io.BytesIO(made)) as picture:
        assert picture.format == "JPEG" and picture.size == (52, 32)  # 52.46 is rounded down
        pixels = np.asarray(picture).astype(int)
    whole = Image.fromarray(decode(jpeg(100, 61), ""))
    wanted = np.asarray(whole.resize((52, 32), Image.Resampling.BICUBIC)).astype(int)
    assert abs(pixels - wanted).mean() < 12  # noise, its colours at half the resolution
    for picture in (jpeg(32, 100), jpeg(20, 30)):
        assert repack_picture(picture, "", 32, 95) is picture
    assert repack_picture(jpeg(100, 61), "", None, None) == jpeg(100, 61)
    assert len(repack_picture(jpeg(100, 61), "", 32, 50)) < len(made)
    # JPEG has no room for a side this long.
    strip = np.zeros((300, 80_000, 3), np.uint8)
    assert repack_picture(strip, "", 256, 95).startswith(b"\x89PNG")
    with pytest.raises(BadRecord, match=r"^here: unreadable image"):
        repack_picture(jpeg(100, 61)[:500], "here", None, None)


def test_only_work_that_it_began_is_taken_up(pairs: Source, tmp_path: Path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years")
    assert "holds thesis.tex, which cleanclip prepare did not write" in refused(pairs, taken)
    (taken / "thesis.tex").rename(taken / "dataset.json")
    assert "which cleanclip prepare did not write" in refused(pairs, taken)
    assert (taken / "dataset.json").read_text() == "years" and len(list(taken.glob("*"))) == 1

    digits = open_source({"kind": "digits"})
    done = tmp_path / "done"
    make(pairs, done)
    before = content(done)
    assert make(pairs, done)["records"] == 40  # again: nothing to do
    for folder in (done, tmp_path / "half"):
        if folder != done:
            refused(pairs, folder, share=-1)
        assert "holds another dataset's shards" in refused(digits, folder)
        assert "were made with short_side=None, not 8" in refused(pairs, folder, short_side=8)
        assert "were made with shards=3, not 4" in refused(pairs, folder, shards=4)
    assert content(done) == before


def test_two_at_once_are_refused(pairs: Source, tmp_path: Path):
    with Output(str(tmp_path / "out")).taken():
        assert "another cleanclip prepare is at work here" in refused(pairs, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "shards: 0 for 40 rows; give 1 to 40"),
        ({"shards": 41}, "give 1 to 40"),
        ({"short_side": 0}, "short_side: 0"),
        ({"quality": 90}, "give short_side too"),
        ({"short_side": 8, "quality": 101}, "quality: 101; give 1 to 100"),
    ],
)
def test_options_out_of_range_are_one_line(pairs: Source, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_plan(pairs, **options)


def test_shards_grow_with_the_rows_up_to_a_number():
    def planned(rows: int, shards: int | None = None) -> Plan:
        source = MagicMock(spec=Source, fingerprint="")
        source.__len__.return_value = rows
        source.caption.return_value, source.has_lists.return_value = "one", False
        return make_plan(source, shards)

    assert [planned(rows).shards for rows in (1, 4096, 4097, 3_300_000)] == [1, 1, 2, 512]
    plan = planned(10, 3)
    assert [list(plan.span(i)) for i in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
