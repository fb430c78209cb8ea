"""Paths, tables and tars made to mislead: one line each, in bounded time and memory."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.data import paths
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import make_plan, prepare
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord

KINDS = ("csv", "tsv", "parquet", "webdataset", "arrayrecord", "folder", "labels")
LONG_JSON = b'{"caption": ' + b"[" * 100_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(stream, "png")
    return stream.getvalue()


def refused(config: Any) -> str:
    with pytest.raises(UserError) as error:
        open_source(config)
    assert str(error.value).isprintable()
    return str(error.value)


def bad(source: Source, index: int) -> str:
    with pytest.raises(BadRecord) as error:
        source[index]
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("kind", [*KINDS, "tfds"])
@pytest.mark.parametrize(
    "path",
    ["a" * 5000, "x\0y", "~nosuchuser/data", "/dev/zero", "FIFO", "LOOP", "FILE/below", "FILE",
     "http://127.0.0.1:1/data", "EMPTY"],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_a_line(kind: str, path: str, tmp_path: Path):
    (tmp_path / "FILE").write_bytes(b"no data")
    (tmp_path / "LOOP").symlink_to(tmp_path / "LOOP")
    (tmp_path / "EMPTY").mkdir()
    os.mkfifo(tmp_path / "FIFO")
    place = f"{tmp_path}/{path}" if path[:4] in ("FIFO", "LOOP", "FILE", "EMPT") else path
    key = "name" if kind == "tfds" else "path"
    if kind == "tfds":
        pytest.importorskip("tensorflow_datasets")
    refused({"kind": kind, key: place})
    refused({"kind": "mixture", "sources": {"a": {"kind": kind, key: place}}})


@pytest.mark.parametrize("key", ["keep", "skip"])
def test_ids_at_a_place_that_is_none_are_a_line(key: str):
    for path in ("x\0.csv", "/dev/zero", "http://127.0.0.1:1/ids.csv", "a" * 5000 + ".json"):
        refused({"kind": "digits", key: path})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "csv", "path": "{0..10000000000}.csv"}, "more than 1,000,000 files"),
        ({"kind": "csv", "path": "{0..9999}{0..9999}.csv"}, "more than 1,000,000 files"),
        ({"kind": "csv", "path": "{5..1}.csv"}, "names no .csv file"),
        ({"kind": "csv", "path": []}, "names no .csv file"),
        ({"kind": "mixture", "sources": {"a": {"kind": "digits", "weight": 1e12}}}, "0 to 1000"),
        ({"kind": "mixture", "sources": {"a": {"kind": "digits", "weight": "x"}}}, "0 to 1000"),
        ({"kind": "mixture", "sources": {"a": "digits"}}, "config.data is 'digits': give"),
        ({"kind": "mixture", "sources": {"a": {3: 4}}}, "config.data (mixture).sources"),
        ("digits", "config.data is 'digits': give"),
    ],
)
def test_a_config_that_stands_for_too_much_or_nothing_is_a_line(config: Any, message: str):
    assert message in refused(config)


def test_links_that_lead_in_circles_end(tmp_path: Path):
    below = tmp_path / "data" / "cat"
    below.mkdir(parents=True)
    (below / "0.png").write_bytes(png())
    for name in ("one", "two"):
        (below / name).symlink_to(tmp_path / "data")
    for kind, path in (("folder", "data"), ("csv", "data"), ("csv", "data/**/*.csv")):
        assert "a link to a folder above it" in refused(
            {"kind": kind, "path": f"{tmp_path}/{path}"}
        )


def test_pictures_that_never_end_are_bad_records(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(30 << 30)
    names = ["/dev/zero", "pipe.png", "sparse.png", ".", "x" * 300, "a\0b", "\x1b[2Jred"]
    table = pa.table({"image": names, "caption": names})
    pq.write_table(table, tmp_path / "pairs.parquet")
    source = open_source({"kind": "parquet", "path": str(tmp_path / "pairs.parquet")})
    reasons = [bad(source, i) for i in range(len(names))]
    for reason, words in zip(reasons, ("no regular file",) * 2 + ("512 MiB",), strict=False):
        assert words in reason
    assert "\\x1b[2Jred" in reasons[-1]


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar's header with a size that no writer would write."""
    about = tarfile.TarInfo(name)
    about.type = kind
    block = bytearray(about.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def extended(record: bytes) -> bytes:
    """A pax header of one record, and the file that it belongs to."""
    size = b"%011o\0" % len(record)
    data = record.ljust(512, b"\0") + header("0.png", b"%011o\0" % 3) + b"abc".ljust(512, b"\0")
    return header("pax", size, tarfile.XHDTYPE) + data


@pytest.mark.parametrize(
    "content",
    [
        *(extended(record) for record in (b"0 size=3\n", b"-9 size=3\n", b" =", b"20 size=-512\n")),
        *(extended(b"%d size=%s\n" % (n, size)) for n, size in ((28, b"9" * 19), (12, b"1e9"))),
        header("0.png", b"\x80" + b"\0" * 6 + b"\1" + b"\0" * 4),  # 4 GiB, by GNU's binary numbers
        header("0.png", b"\xff" * 11 + b"\0"),
        header("pax", b"77777777777\0", tarfile.XHDTYPE),
        header("name", b"77777777777\0", tarfile.GNUTYPE_LONGNAME),
    ],
)
def test_a_tar_with_false_sizes_is_a_line(content: bytes, tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(content + b"\0" * 1024)
    assert "unreadable as tar" in refused({"kind": "webdataset", "path": str(tmp_path / "a.tar")})


def write_tar(path: Path, *files: tuple[str, bytes]) -> dict[str, str]:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return {"kind": "webdataset", "path": str(path), "caption": "caption"}


@pytest.mark.parametrize("note", [LONG_JSON, b"{", b"\xff", b'{"caption": "\\ud800"}'])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_broken_note_costs_its_sample_alone(note: bytes, order: tuple[int, int], tmp_path: Path):
    notes = note, b'{"caption": "one"}'
    files = [
        (f"{i}.{end}", data) for i in order for end, data in (("png", png()), ("json", notes[i]))
    ]
    source = open_source(write_tar(tmp_path / "a.tar", *files))
    assert "sample 0" in bad(source, order.index(0))
    assert source[order.index(1)].caption == "one"


def test_files_and_samples_of_one_name_are_bad_records(tmp_path: Path):
    note = ("1.json", b'{"caption": "one"}')
    files = [("0.png", png()), ("0.PNG", b"x"), ("1.png", png()), note, ("2.png", png()), note]
    source = open_source(write_tar(tmp_path / "a.tar", *files))
    assert "two files of one name" in bad(source, 0)
    assert source[1].caption == "one" and "two samples of one name" in bad(source, 3)


def csv_of(path: Path, content: bytes, **options: Any) -> dict[str, Any]:
    path.write_bytes(content)
    return {"kind": "csv", "path": str(path), **options}


def test_a_field_of_megabytes_costs_its_row_alone(tmp_path: Path):
    long = b"x" * 3_000_000
    content = b"image,caption\n0.png," + long + b'\n1.png,"' + long + b'"\n2.png,two\n'
    content += b"3.png," + 2 * long + b"\n4.png,four\n"
    source = open_source(csv_of(tmp_path / "a.csv", content))
    assert [source.caption(i) for i in (2, 4)] == ["two", "four"] and len(source) == 5
    for i in (0, 1, 3):
        assert "a field of more than 1,048,576 characters" in bad(source, i)
    assert "column names" in refused(csv_of(tmp_path / "b.csv", long + b"\n1\n"))


@pytest.mark.parametrize(
    "encoding", ["hex", "rot13", "utf-8\0", "idna", "undefined", "x" * 999, "é", "punycode"]
)
def test_an_encoding_of_no_text_is_a_line(encoding: str, tmp_path: Path):
    refused(csv_of(tmp_path / "a.csv", b"image,caption\n\xff.png,\xff\n" * 3, encoding=encoding))


def test_half_characters_cost_their_row_alone(tmp_path: Path):
    content = b"image,caption\n0.png,+2AA-\n1.png,one\n"
    source = open_source(csv_of(tmp_path / "a.csv", content, encoding="utf-7"))
    assert "not utf-7" in bad(source, 0) and source.caption(1) == "one"


def test_two_columns_of_one_name_are_a_line(tmp_path: Path):
    message = "two columns are called 'caption'"
    assert message in refused(csv_of(tmp_path / "a.csv", b"image,caption,caption\na,b,c\n"))
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["image", "caption", "caption"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert message in refused({"kind": "parquet", "path": str(tmp_path / "a.parquet")})


@pytest.mark.parametrize("values", [[["cat"], ["dog"]], [{"a": 1}, {"a": 2}], [b"\xff", b"cat"]])
@pytest.mark.parametrize("classes", [None, ["cat", "dog"]])
def test_classes_that_are_no_texts_are_a_line(values: list, classes: Any, tmp_path: Path):
    table = pa.table({"image": ["0.png", "1.png"], "caption": ["a", "b"], "tags": values})
    pq.write_table(table, tmp_path / "a.parquet")
    config = {"kind": "parquet", "path": str(tmp_path / "a.parquet"), "class_name": "tags"}
    assert "tags" in refused({**config, "classes": classes} if classes else config)


def test_a_name_that_is_not_utf_8_costs_its_picture_alone(tmp_path: Path):
    for name in (b"cat/\xff.png", b"cat/1.png", b"cat/\x1b[2J.png", b"d\xffg/2.png"):
        file = tmp_path / "data" / os.fsdecode(name)
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(png())
    source = open_source({"kind": "folder", "path": str(tmp_path / "data")})
    ends = [bad(source, i) for i in range(4) if "\\udcff" in source.where(i)]
    assert len(source) == 4 and len(ends) == 2 and all("not utf-8" in end for end in ends)
    assert source.class_names == ("cat", "d\\udcffg")


def test_escape_codes_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture):
    name = "\\x1b[2J\\nred"
    source = f"--source={{'kind': 'csv', 'path': '{name}.csv'}}"
    assert cli.main(["prepare", source, f"--output={tmp_path}/out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and f"{name}.csv: " in line
    for path in ("/dev/null", "/dev/null/out", "~nosuchuser/out", "x\0y"):
        with pytest.raises(UserError):
            digits = open_source({"kind": "digits", "split": "test"})
            prepare(make_plan(digits), None, Output(path), 0, lambda *_: None)


def test_no_row_left_is_a_line_in_words(tmp_path: Path):
    assert "it has no rows" in refused(csv_of(tmp_path / "a.csv", b"image,caption\n"))
    content = b"image,caption\na,b\n"
    assert "rows 5 on of 1: none left" in refused(
        csv_of(tmp_path / "b.csv", content, rows=(5, None))
    )


def test_what_is_read_whole_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paths, "MOST_BYTES", 1 << 20)
    large = png() + b"\0" * (1 << 20)
    source = open_source(write_tar(tmp_path / "a.tar", ("0.png", large), ("0.json", large)))
    assert "1 MiB" in bad(source, 0)
    pq.write_table(pa.table({"image": [large], "caption": ["a"]}), tmp_path / "a.parquet")
    source = open_source({"kind": "parquet", "path": str(tmp_path / "a.parquet")})
    assert "1 MiB" in bad(source, 0)
