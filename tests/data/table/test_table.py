import csv
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.prompts import TEMPLATES
from cleanclip_jax.views.decode import BadRecord, decode


def table(path: Path, kind: str | None = None, **options: Any) -> Source:
    return open_source({"kind": kind or path.suffix[1:], "path": str(path)} | options)


def captions(source: Source) -> list[str]:
    return [source.caption(i) for i in range(len(source))]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    """So that files of the tests' size come in many."""
    monkeypatch.setattr("cleanclip_jax.data.table.parquet_file.BATCH_ROWS", 6)
    monkeypatch.setattr("cleanclip_jax.data.table.text_file.BATCH_ROWS", 6)


@pytest.fixture
def parquet(tmp_path: Path, png: Callable[[int], bytes]) -> Callable[..., Path]:
    """Writes a parquet file of 40 pairs in row groups of 7; columns given replace these."""

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


@pytest.mark.parametrize("caption", ["007", "null", "1e3", "2020-01-01", "true"])
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


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet"])
def test_one_other_byte_changes_the_fingerprint(
    parquet: Callable, write_csv: Callable, tmp_path: Path, name: str
):
    """For parquet within a picture, far from the footer."""
    path = parquet() if name.endswith("parquet") else write_csv(8)
    seen = {table(path).fingerprint}
    data = bytearray(path.read_bytes())
    place = len(data) // 3 if name.endswith("parquet") else data.index(b"two3")
    data[place] ^= 1
    path.write_bytes(data)
    seen.add(table(path).fingerprint)
    data[place] ^= 1
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / f"other.{path.suffix}"
    copy.write_bytes(data)
    seen.add(table(copy, path.suffix[1:]).fingerprint)
    assert len(seen) == 2


def test_the_file_is_converted_once(write_csv: Callable, cache: Path):
    path = write_csv(5)
    first = table(path)
    (copy,) = (cache / "tables").iterdir()
    written = copy.stat().st_ino
    assert captions(table(path)) == captions(first)
    assert copy.stat().st_ino == written
    path.write_text(path.read_text().replace("one3", "other"))
    assert table(path).caption(3) == "other two3 three3 four3"


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
        (
            {"caption": "captoin"},
            "pairs.parquet: column: unknown 'captoin'.*Did you mean 'caption'",
        ),
        ({"where": {"knd": "dog"}}, "column: unknown 'knd'.*Did you mean 'kind'"),
        ({"where": {"kind": "dgo"}}, "where kind: unknown 'dgo'. Did you mean 'dog'"),
        ({"where": {"kind": "dog", "number": 2}}, "no row where kind='dog', number=2"),
        ({"where": {"number": "many"}}, "where number='many' does not fit.*int64"),
        ({"rows": (40, 50)}, "rows .* of 40: none left"),
        ({"rows": (9, 3)}, "first and the last"),
        ({"rows": (1, 2, 3)}, "first and the last"),
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
    with pytest.raises(UserError, match=r"pairs.parquet: unreadable as parquet: "):
        table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"image,caption\n", "it has no rows"),
        ("image,caption\na.png,x\n".encode("utf-16"), "is not utf-8; .* encoding"),
    ],
)
def test_a_broken_csv_file_is_one_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        table(path)
    assert "\n" not in str(error.value) and "broken.csv" in str(error.value)


def test_shards_are_one_table(parquet: Callable, png: Callable, tmp_path: Path):
    whole = parquet(kind=["cat", "dog"] * 20)
    rows = pq.read_table(whole)
    (tmp_path / "shards/b").mkdir(parents=True)
    for name, start in (("0.parquet", 0), ("1.parquet", 15), ("b/0.parquet", 30)):
        part = rows.slice(start, 15)
        if start:  # another writer's types
            part = part.set_column(1, "caption", part["caption"].cast(pa.large_string()))
        pq.write_table(part, tmp_path / "shards" / name)
    options: dict = {"class_name": "kind", "where": {"kind": "dog"}, "rows": (2, 17)}
    source = table(tmp_path / "shards", "parquet", **options)
    one = table(whole, **options)
    assert len(source) == len(one) == 15 and source.class_names == ("cat", "dog")
    assert captions(source) == captions(one) and source[14].image == one[14].image
    assert source.where(0) == "0.parquet row 6" and source.where(14) == "b/0.parquet row 4"
    listed = [str(tmp_path / f"shards/{name}.parquet") for name in ("1", "0")]
    assert open_source({"kind": "parquet", "path": listed}).caption(0) == "caption 15"


def test_shards_that_differ_are_one_line(parquet: Callable, tmp_path: Path):
    whole = pq.read_table(parquet())
    for name, part in (
        ("0", whole),
        ("1", whole.set_column(0, "image", pa.array(["a.png"] * 40))),
        ("2", whole.drop_columns(["caption"])),
    ):
        pq.write_table(part, tmp_path / f"shard{name}.parquet")
    for pattern, message in (
        ("shard[01].parquet", "shard1.parquet: column 'image' holds images in another way"),
        ("shard[02].parquet", "shard2.parquet: column: unknown 'caption'"),
    ):
        with pytest.raises(UserError, match=message):
            table(tmp_path / pattern, "parquet")


@pytest.mark.parametrize(
    "missing", [pa.array([None] * 40), pa.array([float("nan")] * 40), pa.array(["NaN", ""] * 20)]
)
def test_a_missing_caption_is_empty(parquet: Callable, missing: pa.Array):
    source = table(parquet(caption=missing))
    assert captions(source) == [""] * 40 and source[3].caption == ""


def test_parquet_text_that_is_no_text_is_a_bad_row(parquet: Callable, png: Callable):
    texts = [b"caption %d" % i for i in range(40)]
    texts[7] = b"caf\xe9"
    broken = pa.Array.from_buffers(pa.string(), 40, pa.array(texts, pa.binary()).buffers())
    path = parquet(caption=broken, kind=["cat", "dog"] * 20)
    source = table(path, class_name="kind", where={"kind": "dog"})
    assert len(source) == 20 and captions(source)[:5] == [
        *("caption 1", "caption 3", "caption 5", "", "caption 9")
    ]
    with pytest.raises(BadRecord, match=r"pairs.parquet row 8: column 'caption' is not utf-8"):
        source[3]


def test_a_broken_page_is_one_line(parquet: Callable, cache: Path):
    path = parquet(image=[f"{i}.png" for i in range(40)])
    data = bytearray(path.read_bytes())
    data[10:60] = b"\xff" * 50
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"pairs.parquet: unreadable as parquet") as error:
        table(path)
    assert "\n" not in str(error.value) and not list((cache / "tables").iterdir())


def test_a_column_of_another_kind_is_one_line(parquet: Callable):
    path = parquet(caption=[{"one": "two"}] * 40)
    with pytest.raises(
        UserError, match=r"pairs.parquet: column 'caption' holds struct.*it takes texts"
    ):
        table(path)


def test_a_full_disk_is_one_line_and_leaves_nothing(write_csv: Callable, cache: Path):
    """As far as a process can fill one: no file may grow past a limit."""
    program = (
        "import resource, signal, sys\n"
        "from cleanclip_jax.data.sources import open_source\n"
        "from cleanclip_jax.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    open_source({'kind': 'csv', 'path': sys.argv[1]})\n"
        "except UserError as error:\n"
        "    sys.exit(str(error))\n"
    )
    path = write_csv(40)
    # -B: Python would keep half of what it compiles.
    command = [sys.executable, "-B", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.count("\n") == 1 and "set CLEANCLIP_CACHE" in done.stderr, done.stderr
    assert not list((cache / "tables").iterdir())
    assert len(open_source({"kind": "csv", "path": str(path)})) == 40


def test_a_file_deleted_between_runs_is_one_line(write_csv: Callable):
    path = write_csv(5)
    table(path)
    path.unlink()
    with pytest.raises(UserError, match=r"pairs.csv: No such file or directory; check"):
        table(path)


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
