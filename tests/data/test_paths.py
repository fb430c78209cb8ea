from pathlib import Path

import pytest

from cleanclip_jax.data.listing import expand, files_below
from cleanclip_jax.data.paths import join, parent, read_range, short_names
from cleanclip_jax.errors import UserError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for name in ("b/2.tar", "b/10.tar", "a/1.tar", "a/notes.txt", "_tmp.tar", "x[1].tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0123456789")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ("", ["a/1.tar", "b/10.tar", "b/2.tar", "x[1].tar"]),
        ("/b", ["b/10.tar", "b/2.tar"]),
        ("/*/*.tar", ["a/1.tar", "b/10.tar", "b/2.tar"]),
        ("/b/{2,10}.tar", ["b/2.tar", "b/10.tar"]),
        ("/{a/1,b/2}.tar", ["a/1.tar", "b/2.tar"]),
        ("/{a,b}/{08..10}.tar", [f"{f}/{n}.tar" for f in "ab" for n in ("08", "09", "10")]),
        ("/x[1].tar", ["x[1].tar"]),
        ("/nowhere.tar", ["nowhere.tar"]),
    ],
)
def test_a_path_stands_for_files_in_a_fixed_order(shards: Path, given: str, files: list[str]):
    assert expand(f"{shards}{given}", ".tar") == [f"{shards}/{name}" for name in files]


def test_a_list_keeps_its_order(shards: Path):
    given = [shards / "b", f"{shards}/a/1.tar"]
    assert expand(given, ".tar") == [f"{shards}/{n}" for n in ("b/10.tar", "b/2.tar", "a/1.tar")]


@pytest.mark.parametrize("given", ["/a/*.parquet", "/a"])
def test_a_pattern_without_files_is_one_line(shards: Path, given: str):
    with pytest.raises(UserError, match=r"/a.*: no .parquet file there"):
        expand(f"{shards}{given}", ".parquet")


def test_paths_join_as_seen_from_a_folder():
    assert join("images", "a.png") == "images/a.png"
    assert join("", "a.png") == "a.png"
    assert join("gs://bucket/images/", "x/a.png") == "gs://bucket/images/x/a.png"
    assert join("gs://bucket", "https://host/a.png") == "https://host/a.png"
    assert join("gs://bucket", "/data/a.png") == "/data/a.png"
    assert parent("https://host/b/a.csv?token=x/y") == "https://host/b"
    assert parent("a.csv") == ""


def test_files_are_named_by_what_tells_them_apart():
    assert short_names(["gs://b/x/0.tar"]) == ["0.tar"]
    assert short_names(["/d/x/0.tar", "/d/x/1.tar"]) == ["0.tar", "1.tar"]
    assert short_names(["/d/x/0.tar", "/d/y/z/0.tar"]) == ["x/0.tar", "y/z/0.tar"]


def test_reading_past_the_end_is_an_error(shards: Path):
    assert read_range(f"{shards}/a/1.tar", 4, 3) == b"456"
    with pytest.raises(OSError, match="ends before byte 11"):
        read_range(f"{shards}/a/1.tar", 8, 3)


def test_files_below_come_by_name_also_links_that_lead_nowhere(shards: Path):
    (shards / "a/0.png").symlink_to(shards / "gone.png")
    files = " ".join(name for name, _ in files_below(str(shards)))
    assert files == "_tmp.tar a/0.png a/1.tar a/notes.txt b/10.tar b/2.tar x[1].tar"
