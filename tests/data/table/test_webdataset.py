import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.table.webdataset import members
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord

FORMATS: dict[str, Any] = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


def write_tar(path: Path, files: dict[str, bytes], form: str = "pax") -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", format=FORMATS[form]) as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mtime = len(data), 1.5  # a fraction makes a pax header
            tar.addfile(about, io.BytesIO(data))
    return path


def sample(i: int, data: bytes, ending: str = "png", **notes: Any) -> dict[str, bytes]:
    """A pair as img2dataset writes it."""
    about = {"caption": f"json {i}", "key": f"{i:09d}", "status": "success"} | notes
    return {
        f"{i:09d}.{ending}": data,
        f"{i:09d}.txt": f"text {i}".encode(),
        f"{i:09d}.json": json.dumps(about).encode(),
    }


@pytest.fixture
def shards(tmp_path: Path, png: Callable[[int], bytes]) -> Path:
    """Two tars of five and three pairs."""
    for shard, ids in enumerate((range(5), range(5, 8))):
        files: dict[str, bytes] = {}
        for i in ids:
            kind = ("cat", "dog")[i % 2]
            files |= sample(i, png(i), ("png", "jpg", "webp")[i % 3], kind=kind, score=i)
        write_tar(tmp_path / f"data/{shard:05d}.tar", files)
    return tmp_path / "data"


def webdataset(path: Path | str, **options: Any) -> Source:
    return open_source({"kind": "webdataset", "path": str(path)} | options)


def test_samples_are_pairs(shards: Path, png: Callable):
    source = webdataset(shards)
    assert len(source) == 8 and source.class_names is None
    for i in (0, 4, 5, 7):
        assert source[i].image == png(i) and source.caption(i) == source[i].caption == f"text {i}"
    assert source.where(6) == source[6].where == "00001.tar sample 000000006"
    assert len(webdataset(shards / "{00000..00001}.tar")) == 8
    assert len(webdataset(shards / "*1.tar")) == 3


def test_captions_classes_and_choices_come_from_the_json(shards: Path):
    source = webdataset(
        shards, caption="caption", class_name="kind", where={"score": [1, 2, 7], "kind": "dog"}
    )
    assert [source.caption(i) for i in range(len(source))] == ["json 1", "json 7"]
    assert source.class_names == ("cat", "dog") and source.labels().tolist() == [1, 1]


def test_a_list_of_captions_in_the_json_is_several_of_one_picture(tmp_path: Path, png: Callable):
    texts: list[Any] = [["one", " ", "two"], "three", None, ["half \ud83d"], [], [4]]
    files: dict[str, bytes] = {}
    for i, several in enumerate(texts):
        files |= sample(i, png(i), captions=several)
    path = write_tar(tmp_path / "a.tar", files)
    source = webdataset(path, caption="captions")
    captions = [tuple(source.all_captions(i)) for i in range(6)]
    assert captions == [("one", "two"), ("three",), ("",), ("",), ("",), ("4",)]
    assert source.has_lists() and source[0].caption == "one" and source[0].image == png(0)
    with pytest.raises(BadRecord, match="sample 000000003: column 'captions' is not utf-8"):
        source[3]
    single = webdataset(path, caption="caption")
    assert not single.has_lists() and single.fingerprint != source.fingerprint
    assert [single.caption(i) for i in range(2)] == ["json 0", "json 1"]


def test_a_class_file_holds_a_number_or_a_name(tmp_path: Path, png: Callable):
    files: dict[str, bytes] = {}
    for i, kind in enumerate((b"1\n", b"cat", b"0")):
        files |= {f"{i}.png": png(i), f"{i}.cls": kind}
    path = write_tar(tmp_path / "a.tar", files)
    options: dict = {"caption": None, "class_name": "cls"}
    source = webdataset(path, **options, classes=["cat", "dog"])
    assert source.labels().tolist() == [1, 0, 0] and source[0].label == 1
    source = webdataset(path, **options, classes=["cat", "dog"], templates=["a {}"])
    assert [source.caption(i) for i in range(3)] == ["a dog", "a cat", "a cat"]
    with pytest.raises(UserError, match="cls, by name or number of 1 classes: unknown '1'"):
        webdataset(path, **options, classes=["cat"])


def test_a_sample_pickles_as_its_place(shards: Path, png: Callable):
    source = webdataset(shards)
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000 and pickle.loads(pickled)[6].image == png(6)


def test_what_is_wrong_with_a_sample_is_shown_when_it_is_read(tmp_path: Path, png: Callable):
    files = sample(0, png(0)) | sample(1, png(1)) | sample(2, png(2)) | sample(3, png(3))
    del files["000000001.png"]
    del files["000000002.txt"]
    files["000000003.txt"] = b"caf\xe9"
    source = webdataset(write_tar(tmp_path / "a.tar", files))
    assert [source.caption(i) for i in range(4)] == ["text 0", "", "", ""]
    assert source[2].image == png(2)
    with pytest.raises(BadRecord, match=r"^a.tar sample 000000001: no picture .* txt, json"):
        source[1]
    with pytest.raises(BadRecord, match=r"sample 000000003: .*utf-8"):
        source[3]
    files["000000003.json"] = b"{"
    files["000000000.json"] = b'{"caption": "half a \\ud83d"}'
    source = webdataset(write_tar(tmp_path / "a.tar", files), caption="caption")
    for i in (0, 3):
        with pytest.raises(BadRecord, match=rf"sample 00000000{i}: "):
            source[i]
    assert source.caption(2) == "json 2"


def test_a_shard_that_is_gone_is_bad_records(shards: Path):
    source = webdataset(shards)
    (shards / "00001.tar").unlink()
    assert source[0].caption == "text 0"
    with pytest.raises(BadRecord, match=r"00001.tar sample 000000005: image .*No such file"):
        source[5]
    # The next run has other data, which the fingerprint says; named, the shard is missed.
    assert webdataset(shards).fingerprint != source.fingerprint
    with pytest.raises(UserError, match=r"00001.tar: No such file"):
        webdataset(shards / "{00000..00001}.tar")


@pytest.mark.parametrize("place", [10, 3000, -1])
def test_one_other_byte_changes_the_fingerprint(shards: Path, place: int, tmp_path: Path):
    source = webdataset(shards)
    moved = shards.rename(tmp_path / "elsewhere")
    assert webdataset(moved).fingerprint == source.fingerprint
    data = bytearray((moved / "00000.tar").read_bytes())
    if place == 10:  # a name's, mended by the header's checksum
        data = data.replace(b"000000000.txt", b"000000000.tyt").replace(b"013", b"013")
        assert data != (moved / "00000.tar").read_bytes()
    else:
        data[place] ^= 1
    (moved / "00000.tar").write_bytes(data)
    try:
        assert webdataset(moved).fingerprint != source.fingerprint
    except UserError as error:
        assert "no tar header" in str(error)


@pytest.mark.parametrize("cut", ["within", "between", "end mark", "header"])
def test_a_tar_cut_short_is_one_line_and_nothing_is_left(shards: Path, cut: str, cache: Path):
    path = shards / "00001.tar"
    data = path.read_bytes()
    with path.open("rb") as stream:
        entries = list(members(stream))
    last = entries[-1].start + -(-entries[-1].size // 512) * 512
    end = {
        "within": entries[3].start + 10,
        "between": entries[3].start + -(-entries[3].size // 512) * 512,
        "end mark": last,
        "header": last - 3 * 512 - 100,
    }[cut]
    path.write_bytes(data[:end])
    with pytest.raises(UserError, match=r"00001.tar: unreadable as tar: cut short at") as error:
        webdataset(shards)
    assert "\n" not in str(error.value)
    assert not list((cache / "tables").iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cut short"), (b"\x1f\x8b" + b"x" * 600, "compressed"), (b"x" * 600, "no tar header")],
)
def test_what_is_no_tar_is_one_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=rf"a.tar: unreadable as tar: .*{message}"):
        webdataset(tmp_path / "a.tar")


def test_a_missing_key_is_one_line(shards: Path):
    with pytest.raises(UserError, match=r"column: unknown 'captoin'. Did you mean 'caption'"):
        webdataset(shards, caption="captoin")


def test_a_shard_without_samples_is_passed_over(shards: Path):
    write_tar(shards / "00002.tar", {})
    assert len(webdataset(shards)) == 8


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_read_in_every_format(tmp_path: Path, form: str):
    files = {f"{'folder/' * (i * 4)}name {i}.txt": b"x" * (i * 300) for i in range(6)}
    files["name of more than a hundred letters " * 2 + "ö" * 40] = b"long"
    path = write_tar(
        tmp_path / "a.tar", files if form != "ustar" else dict(list(files.items())[:5]), form
    )
    with tarfile.open(path) as tar, path.open("rb") as stream:
        expected = [(about.name, about.offset_data, about.size) for about in tar]
        assert [tuple(member) for member in members(stream)] == expected
        assert len(expected) >= 5


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sizes_beyond_octal_are_read(tmp_path: Path, form: str):
    """Those over 8 GiB: in base 256 by GNU, in a header before by pax."""
    about = tarfile.TarInfo("big.bin")
    about.size = 9 << 30
    head = about.tobuf(FORMATS[form])
    with (tmp_path / "a.tar").open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + about.size + 1024)  # a hole of zeros
    with (tmp_path / "a.tar").open("rb") as stream:
        (entry,) = members(stream)
    assert (entry.name, entry.start, entry.size) == ("big.bin", len(head), about.size)


@pytest.mark.parametrize("record", [b"0 a=b\n", b"-6 a=b\n", b"12 size=-512\n"])
def test_a_header_that_leads_back_is_one_line(tmp_path: Path, record: bytes):
    """It would be read for ever."""
    about = tarfile.TarInfo("head")
    about.type, about.size = tarfile.XHDTYPE, len(record)
    data = about.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(data + tarfile.TarInfo("a.png").tobuf() + bytes(1024))
    with pytest.raises(UserError, match=r"a.tar: unreadable as tar"):
        webdataset(tmp_path / "a.tar")
