import csv
import io
from pathlib import Path

import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.table.text_file import records
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord


def rows(text: str, width: int = 2) -> list[list[str] | str]:
    return [row for block in records(io.StringIO(text, ""), ",", width) for row in block]


@pytest.fixture(params=[1, 2, 3, 100])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Lines at a time: what comes out must not depend on it."""
    monkeypatch.setattr("cleanclip_jax.data.table.text_file.BATCH_ROWS", request.param)


BROKEN = {
    # An open quote up to the next one, to the end, and to one that stands well by itself.
    'a,1\nb,"2\nc,3\nd,"4, 5"\ne,6\n': [["a", "1"], "quote", ["c", "3"], ["d", "4, 5"], ["e", "6"]],
    'a,1\nb,"2\nc,3\n': [["a", "1"], "quote", ["c", "3"]],
    'b,"2\nc,"3\nd,"4\ne,5\n': ["quote", "quote", "quote", ["e", "5"]],
    'a,"1\n2"\nb,"3\n\n4",\nc,"5\n6"\n': [["a", "1\n2"], "3 fields", ["c", "5\n6"]],
    'a,1\nb,"2': [["a", "1"], "quote"],
    # Too many, too few, none.
    "a,1\nb\nc,3,4\n\nd,5\n": [["a", "1"], "1 field,", "3 fields", ["d", "5"]],
    # Bare quotes that hide nothing are read as pandas reads them.
    'a,say "1"\nb,"2" times\n': [["a", 'say "1"'], ["b", "2 times"]],
    'a,"1", "2"\n': ["3 fields"],
    # Old and new line ends, none at the end.
    "a,1\r\nb,2\rc,3": [["a", "1"], ["b", "2"], ["c", "3"]],
    'a,"""1"""\n"b,",""\n': [["a", '"1"'], ["b,", ""]],
}


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_record_does_not_take_its_neighbours_along(text: str):
    result = rows(text)
    assert len(result) == len(BROKEN[text])
    for row, expected in zip(result, BROKEN[text], strict=True):
        assert expected in row if isinstance(expected, str) else row == expected


@pytest.mark.usefixtures("blocks")
def test_sound_records_are_read_as_they_were_written():
    written = [[f"a{i}", '"' * (i % 4) + "line\r\n" * (i % 3) + ", x" * (i % 5)] for i in range(60)]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(written)
    assert rows(stream.getvalue()) == written


def test_an_open_quote_is_followed_only_so_far():
    long = "b,line\n" * 200_000
    result = rows('a,"1\n' + long)
    assert len(result) == 200_001 and "quote" in result[0] and result[1:3] == [["b", "line"]] * 2


def table(path: Path, content: bytes, **options: str) -> Source:
    path.write_bytes(content)
    return open_source({"kind": "csv", "path": str(path)} | options)


def test_a_row_that_cannot_be_taken_stays_a_record(tmp_path: Path):
    content = b"image,caption,split\na.png,one,x\nb.png,t\xffo,x\nc.png\nd.png,four,y\n"
    source = table(tmp_path / "pairs.csv", content)
    assert [source.caption(i) for i in range(4)] == ["one", "", "", "four"]
    with pytest.raises(BadRecord, match=r"^pairs.csv row 2: not utf-8; correct or remove"):
        source[1]
    with pytest.raises(BadRecord, match=r"^pairs.csv row 3: 1 field, where the header has 3"):
        source[2]
    # Which split a row is of that cannot be read nobody knows: it is counted in each.
    part = open_source(
        {"kind": "csv", "path": str(tmp_path / "pairs.csv"), "where": {"split": "y"}}
    )
    assert [part.where(i) for i in range(len(part))] == ["pairs.csv row 3", "pairs.csv row 4"]


def test_bytes_that_are_no_text_matter_in_the_columns_that_are_read(tmp_path: Path):
    source = table(tmp_path / "pairs.csv", b"image,caption,note\na.png,one,\xff\n")
    assert source.caption(0) == "one"
    with pytest.raises(BadRecord, match="No such file"):
        source[0]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-16", "cp1252", "shift_jis"])
def test_text_is_read_in_its_encoding(tmp_path: Path, encoding: str):
    caption = "ドッグ" if encoding == "shift_jis" else "café"
    content = f"image,caption\na.png,{caption}\n".encode(encoding)
    source = table(tmp_path / "pairs.csv", content, encoding=encoding)
    assert source.caption(0) == caption


def test_what_an_encoding_lacks_is_one_bad_row(tmp_path: Path):
    content = b"image,caption\na.png,caf\xe9\nb.png,\x81\nc.png,\x80\n"
    source = table(tmp_path / "pairs.csv", content, encoding="cp1252")
    assert [source.caption(i) for i in range(3)] == ["café", "", "€"]
    with pytest.raises(BadRecord, match="row 2: not cp1252"):
        source[1]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path):
    source = table(tmp_path / "pairs.csv", "image,caption\na.png,one\n".encode("utf-8-sig"))
    assert source.caption(0) == "one"


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "NAN"])
def test_a_missing_caption_is_empty(tmp_path: Path, missing: str):
    source = table(tmp_path / "pairs.csv", f"image,caption\na.png,{missing}\n".encode())
    assert source.caption(0) == ""


def test_an_unknown_encoding_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="encoding: unknown 'utf-9'"):
        table(tmp_path / "pairs.csv", b"", encoding="utf-9")
