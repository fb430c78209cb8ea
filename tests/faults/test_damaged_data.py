"""Damaged tables, tars, shards and folders: each is read, or refused in one line."""

import io
import json
import os
import resource
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cleanclip_jax.cache import sha256
from cleanclip_jax.data.shards import layout
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import make_plan, prepare
from cleanclip_jax.data.shards.repack import repack_shard
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import decode

ROWS = 6
CORE, ALL = 12, 1500  # inputs of each kind
MOST_SECONDS, MOST_BYTES = 10, 2 << 30


def png(i: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(i).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def text_table(delimiter: str) -> Callable[[Path], dict[str, Any]]:
    def write(path: Path) -> dict[str, Any]:
        rows = [
            ("image", "caption", "animal"),
            *((f"{i}.png", f"a, {i}", "cat") for i in range(ROWS)),
        ]
        text = "\n".join(delimiter.join(f'"{field}"' for field in row) for row in rows)
        path.write_text(text)
        return {"class_name": "animal"}

    return write


def parquet(path: Path) -> dict[str, Any]:
    columns = {"image": [png(i) for i in range(ROWS)], "caption": list("abcdef"), "n": range(ROWS)}
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return {"class_name": "n"}


def tar(path: Path) -> dict[str, Any]:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for i in range(ROWS):
            note = json.dumps({"caption": f"a {i}", "n": i}).encode()
            for ending, data in (("png", png(i)), ("txt", b"a"), ("json", note)):
                about = tarfile.TarInfo(f"{'x' * 90 * (i % 2)}{i}.{ending}")
                about.size, about.mtime = len(data), 1.5
                archive.addfile(about, io.BytesIO(data))
    return {"caption": "caption", "class_name": "n"}


def shards(path: Path) -> dict[str, Any]:
    table = path.with_suffix(".csv")
    text_table(",")(table)
    for i in range(ROWS):
        (path.parent / f"{i}.png").write_bytes(png(i))
    source = open_source({"kind": "csv", "path": str(table), "class_name": "animal"})

    def run(plan: Any, output: Any, _: int) -> None:
        for number in range(plan.shards):
            repack_shard(source, plan, number, output, lambda _: None)

    prepare(make_plan(source, 2), source.class_names, Output(str(path)), 0, run)
    return {}


def folder(path: Path) -> dict[str, Any]:
    for i in range(ROWS):
        file = path / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    return {}


KINDS = {
    "csv": text_table(","),
    "tsv": text_table("\t"),
    "parquet": parquet,
    "webdataset": tar,
    "arrayrecord": shards,
    "folder": folder,
}
PIECES = (
    *(
        b'"',
        b"\n",
        b"\r",
        b"\0",
        b",",
        b"\t",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\x80" * 8,
        b"\x1b[2J",
    ),
    *(b"-1", b"9" * 30, b"[" * 3000, b"{", b"../" * 9, b"0 x=y\n", b"19 size=-99999999\n"),
    *(b"\xff" * 8, b"\x7f\xff\xff\xff", b"null", b"1e999", b"NaN", b"x" * 70_000),
)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes are others, gone, more, twice, or in another order."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at, end = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
        end = min(end, at + int(rng.choice([1, 4, 64, 5000])))
        piece = PIECES[rng.integers(len(PIECES))]
        match rng.choice([0, 0, 0, 1, 2, 3, 3, 3, 4, 5]):
            case 0:
                data = data[:at] + rng.bytes(end - at) + data[end:]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + piece + data[at:]
            case 3:
                data = data[:at] + piece + data[at + len(piece) :]
            case 4:
                data = data[:at] + data[end:]
            case _:
                data = data[:end] + data[at:]
    return data


def damage(path: Path, rng: np.random.Generator) -> None:
    """Damages a file; of a folder one file, its name or its kind."""
    if path.is_file():
        path.write_bytes(damaged(path.read_bytes(), rng))
        return
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[rng.integers(len(files))]
    match rng.integers(4):
        case 0 | 1:
            file.write_bytes(damaged(file.read_bytes(), rng))
            if (path / layout.DATASET).is_file():
                describe(path, rng)
        case 2:
            name = damaged(os.fsencode(file.name), rng).replace(b"/", b"").replace(b"\0", b"")
            file.rename(file.parent / os.fsdecode(name[:200] or b"x"))
        case _:
            file.unlink()
            make = (file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to(path))
            make[rng.integers(3)]()


def describe(path: Path, rng: np.random.Generator) -> None:
    """Has dataset.json say what its files are now, or something else."""
    file = path / layout.DATASET
    try:
        content = json.loads(file.read_bytes())
        for about in [*content["shards"], content["index"]]:
            there = path / about.get("name", layout.INDEX)
            about |= {"bytes": there.stat().st_size, "sha256": sha256(there)}
            if rng.integers(4) == 0:
                key = ("records", "name", "sha256", "bytes")[rng.integers(4)]
                about[key] = (-1, 2**70, None, "x", [], {}, 7, True)[rng.integers(8)]
        if rng.integers(4) == 0:
            content["class_names"] = ([], None, ["a"], [1], "ab", {})[rng.integers(6)]
        made = [layout.Shard(**about) for about in content["shards"]]
        index, names = content["index"]["sha256"], content["class_names"]
        content["fingerprint"] = layout.fingerprint(made, index, names)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return
    file.write_text(json.dumps(content))


def read(config: dict[str, Any]) -> str:
    """Opens a source and reads all it has; returns how that ended."""
    try:
        source = open_source(config)
        assert len(source.labels()) == len(source.ids()) == len(source)
        ended = "read"
        for i in range(min(len(source), 50)):
            try:
                assert isinstance(source.caption(i), str)
                decode(source[i].image, source.where(i))
            except UserError as error:
                assert str(error).isprintable()
                ended = "read but for some records"
        return ended
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 100_000
        return "refused"


def tries(kind: str, count: int, tmp_path: Path) -> Iterator[tuple[int, str]]:
    sound = tmp_path / "sound" / f"data.{kind}"
    sound.parent.mkdir()
    options = KINDS[kind](sound)
    for i in range(ROWS):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    for seed in range(count):
        copy = tmp_path / f"try.{'tar' if kind == 'webdataset' else kind}"
        if copy.is_dir():
            shutil.rmtree(copy)
        (shutil.copytree if sound.is_dir() else shutil.copy)(sound, copy)
        damage(copy, np.random.default_rng(seed))
        yield seed, read({"kind": kind, "path": str(copy), **options})
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.mark.parametrize(
    "count", [CORE, pytest.param(ALL, marks=pytest.mark.faults)], ids=["core", "all"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_is_read_or_refused_in_a_line(
    kind: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
    ends, slow, began = Counter(), [], time.monotonic()
    for seed, ended in tries(kind, count, tmp_path):
        ends[ended] += 1
        if time.monotonic() - began > MOST_SECONDS:
            slow.append(seed)
        began = time.monotonic()
    assert not slow and sum(ends.values()) == count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST_BYTES
    print(kind, dict(ends))
