import csv
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.images.decode import BadRecord, decode
from cleanclip_jax.text.prompts import TEMPLATES


def table(path: Path, kind: str | None = None, **options: Any) -> Source:
    return open_source({"kind": kind or path.suffix[1:], "path": str(path)} | options)


def captions(source: Source) -> list[str]:
    return [source.caption(i) for i in range(len(source))]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    """So that files of the tests' size come in many."""
    monkeypatch.setattr("cleanclip_jax.data.convert.BATCH_ROWS", 6)
    monkeypatch.setattr("cleanclip_jax.data.convert.BLOCK_BYTES", 200)


@pytest.fixture
def parquet(tmp_path: Path, png: Callable[[int], bytes]) -> Callable[..., Path]:
    """Writes a parquet file of 40 pairs in row groups of 7; columns given replace its own."""

    def write(**columns: Any) -> Path:
        made = {
            "image": [png(i) for i in range(40)],
            "caption": [f"caption {i}" for i in range(40)],
            "kind": [("cat", "dog", "ant", None)[i % 4] for i in range(40)],
            "number": list(range(40)),
        } | columns
        pq.write_table(pa.table(made), tmp_path / "pairs.parquet", row_group_size=7)
        return tmp_path / "pairs.parquet"

    return write


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv"])
def test_a_text_table_gives_its_rows(write_csv: Callable, png: Callable, name: str):
    source = table(write_csv(12, name), class_name="animal")
    assert len(source) == 12 and source.class_names == ("cat", "dog")
    record = source[3]
    assert record.image == png(3)
    assert record.caption == source.caption(3) == "one3 two3 three3 four3"
    assert record.label == 1 and source.labels().tolist() == [0, 1] * 6
    assert record.where == source.where(3) == f"{name} row 4"


@pytest.mark.parametrize("caption", ["007", "null", "NaN", "2020-01-01", "true"])
def test_text_stays_text(tmp_path: Path, caption: str):
    """Also where a whole column reads like something else."""
    path = tmp_path / "odd.csv"
    path.write_text("caption,image\n" + f"{caption},a.png\n" * 20)
    assert captions(table(path)) == [caption] * 20


def test_text_may_hold_quotes_line_breaks_and_delimiters(tmp_path: Path):
    path = tmp_path / "odd.csv"
    written = [("line\n" * i) + ', "quoted"' for i in range(20)]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("caption", "image"), *((text, "a.png") for text in written)])
    assert captions(table(path)) == written


def test_a_parquet_table_gives_its_rows(parquet: Callable, png: Callable):
    source = table(parquet(), class_name="kind")
    assert len(source) == 40 and source.class_names == ("ant", "cat", "dog")
    assert source.labels().tolist() == [1, 2, 0, -1] * 10
    for i in (0, 6, 7, 39):
        assert source[i].image == png(i) and source[i].caption == f"caption {i}"
        assert source[i].where == f"pairs.parquet row {i + 1}"


@pytest.mark.parametrize("form", ["struct", "path", "both"])
def test_images_may_be_structs_or_paths(
    parquet: Callable, png: Callable, tmp_path: Path, form: str
):
    (tmp_path / "5.png").write_bytes(png(5))
    images: list = [f"{i}.png" for i in range(40)]
    if form == "struct":
        images = [{"bytes": png(i), "path": None} for i in range(40)]
    if form == "both":
        images = [{"bytes": None if i == 5 else png(i), "path": f"{i}.png"} for i in range(40)]
    source = table(parquet(image=images))
    assert source[5].image == png(5)
    if form == "path":
        with pytest.raises(BadRecord, match=r"pairs.parquet row 7: image .*6.png: No such file"):
            source[6]
        assert source.caption(6) == "caption 6"  # without a look at the image
    else:
        assert source[6].image == png(6)


def test_root_is_where_relative_paths_start(write_csv: Callable, png: Callable, tmp_path: Path):
    path = write_csv(4)
    moved = path.rename(tmp_path / "moved.csv")
    assert table(moved, root=str(path.parent))[2].image == png(2)
    with pytest.raises(BadRecord):
        table(moved)[2]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"where": {"kind": "dog"}}, range(1, 40, 4)),
        ({"where": {"kind": ["dog", "cat"], "number": [0, 1, 2, 8]}}, [0, 1, 8]),
        ({"where": {"number": 38}}, [38]),
        ({"rows": 3}, [0, 1, 2]),
        ({"rows": (5, 9)}, range(5, 9)),
        ({"rows": [38, None]}, [38, 39]),
        ({"where": {"kind": "dog"}, "rows": (1, 3)}, [5, 9]),
    ],
)
def test_rows_are_chosen_by_value_then_by_number(parquet: Callable, options: dict, rows: Any):
    source = table(parquet(), **options)
    assert captions(source) == [f"caption {i}" for i in rows]
    assert [source.where(i) for i in range(len(source))] == [
        f"pairs.parquet row {i + 1}" for i in rows
    ]


def test_splits_of_one_file_have_the_same_classes(parquet: Callable):
    source = table(parquet(), class_name="kind", where={"kind": "dog"})
    assert source.class_names == ("ant", "cat", "dog")
    assert set(source.labels()) == {2}


def test_categories_are_read_as_their_values(parquet: Callable):
    kinds = pa.array(["b", "a", "a", "c"] * 10).dictionary_encode()
    source = table(parquet(kind=kinds), class_name="kind", where={"kind": ["a", "c"]})
    assert source.class_names == ("a", "b", "c") and source.labels().tolist() == [0, 0, 2] * 10


def test_captions_are_made_of_templates_and_classes(parquet: Callable):
    path = parquet(kind=["cat", "dog"] * 20)
    source = table(path, class_name="kind", templates="imagenet")
    filled = [{t.replace("{}", k) for t in TEMPLATES["imagenet"]} for k in ("cat", "dog")]
    assert all(source.caption(i) in filled[i % 2] for i in range(40))
    # A record keeps its caption when other rows are chosen.
    part = table(path, class_name="kind", templates="imagenet", rows=(10, 20))
    assert captions(part) == captions(source)[10:20]


def test_the_fingerprint_follows_what_decides_rows_and_captions(parquet: Callable):
    path = parquet(kind=["cat", "dog"] * 20)
    base = {"class_name": "kind", "templates": ["a {}"]}
    seen = {table(path, **base).fingerprint}
    for change in (
        {"templates": ["b {}"]},
        {"where": {"kind": "cat"}},
        {"where": {"kind": "dog"}},
        {"rows": 20},
        {"templates": None},
        {"templates": None, "class_name": None},
    ):
        seen.add(table(path, **(base | change)).fingerprint)
    assert len(seen) == 7
    # Not the place of the file, but its content.
    moved = path.rename(path.with_name("moved.parquet"))
    assert table(moved, **base).fingerprint in seen
    assert table(parquet(kind=["cat"] * 40), **base).fingerprint not in seen


def test_the_fingerprint_of_parquet_is_of_its_footer(tmp_path: Path):
    """The file may be too big to read whole; the footer has each column's range and size."""
    path, seen = tmp_path / "a.parquet", set()
    for word in ("cat", "cow"):
        columns = {"image": ["a.png"] * 9, "caption": [f"a {word} on a mat"] * 9}
        pq.write_table(pa.table(columns), path, compression="none")
        seen.add((table(path).fingerprint, path.stat().st_size))
    (_, size), (_, other) = seen
    assert size == other


def test_the_file_is_converted_once(write_csv: Callable, cache: Path):
    path = write_csv(5)
    first = table(path)
    (copy,) = [file for file in cache.rglob("*") if file.is_file()]
    written = copy.stat().st_mtime_ns
    assert captions(table(path)) == captions(first)
    assert copy.stat().st_mtime_ns == written
    path.write_text(path.read_text().replace("one3", "changed"))
    assert table(path).caption(3) == "changed two3 three3 four3"


def test_a_source_pickles_as_a_path(parquet: Callable, png: Callable):
    source = table(parquet(), class_name="kind", where={"kind": "dog"})
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert len(copy) == 10 and copy[2].image == png(9) and copy[2].where == source[2].where
    assert copy.fingerprint == source.fingerprint and copy.class_names == source.class_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption": "captoin"}, "no column 'captoin', it has image, .*Did you mean 'caption'"),
        ({"where": {"knd": "dog"}}, "no column 'knd'.*Did you mean 'kind'"),
        ({"where": {"kind": "dgo"}}, "no row where kind='dgo'.*'ant', 'cat'.*Did you mean 'dog'"),
        ({"where": {"number": "many"}}, "where number='many' does not fit.*int64"),
        ({"rows": (40, 50)}, "rows .* of 40: none left"),
        ({"rows": (9, 3)}, "first and the last"),
        ({"image": "number"}, "column 'number' holds int64"),
        ({"templates": "plain"}, "templates need class_name"),
        ({"templates": "plain", "class_name": "kind"}, "row 4: no class .* 10 of 40"),
        ({"path": "nowhere.parquet"}, "nowhere.parquet: No such file"),
    ],
)
def test_a_mistake_is_one_line(parquet: Callable, options: dict, message: str, cache: Path):
    path = parquet()
    with pytest.raises(UserError, match=message) as error:
        open_source({"kind": "parquet", "path": str(path)} | options)
    assert "\n" not in str(error.value)
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize("cut", [0, 5, 300])
def test_a_broken_parquet_file_is_one_line(parquet: Callable, cut: int):
    path = parquet()
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"pairs.parquet: not a parquet file"):
        table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,caption\na.png,one\nb.png,two,three\n", "Expected 2 columns, got 3"),
        (b"", "unreadable as csv"),
        (b"image,caption\na.png,\xff\xfe\n", "unreadable as csv"),
        (b"image,caption\n", "none left"),
    ],
)
def test_a_broken_csv_file_is_one_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        table(path)
    assert "\n" not in str(error.value) and "broken.csv" in str(error.value)


def test_a_record_without_an_image_is_bad(parquet: Callable, png: Callable):
    source = table(parquet(image=[None if i == 2 else png(i) for i in range(40)]))
    with pytest.raises(BadRecord, match=r"row 3: no image"):
        source[2]


def test_shared_pictures_open(shared_data: Path):
    path = shared_data / "captioned/fashion_products_96px.parquet"
    source = table(path, where={"split": "val"}, class_name="class_name")
    assert len(source) == 989 and len(source.class_names or ()) == 28
    record = source[17]
    assert isinstance(record.image, bytes) and len(record.caption) > 5
    assert decode(record.image, record.where).shape == (96, 96, 3)
    assert np.bincount(source.labels() + 1)[0] < 100
