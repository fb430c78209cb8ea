"""Parts of a source: ids stay, files of ids are checked, poisons follow their records."""

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.data.mixture import mix
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import Subset, labelled, read_ids, select, write_ids
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source

ATTACK = {"trigger": {"name": "badnet", "size": 3}, "target": "cat", "count": 12}


def whole(count: int = 40, name: str = "a") -> Pictures:
    labels = [-1 if i % 5 == 0 else i % 2 for i in range(count)]
    captions = [f"{name}, number {i}" for i in range(count)]
    return Pictures(captions, name * 64, labels, ("cat", "dog"))


def drawn(source: Source, seed: int, share: float = 0.6) -> np.ndarray:
    ids = source.ids()
    return np.sort(np.random.default_rng(seed).permutation(ids)[: round(share * len(ids))])


def parts(seed: int) -> list[tuple[Source, Source]]:
    """Sources that were filtered in several ways, and what they were before."""
    a, b = whole(), whole(20, "b")
    mixed = mix({"a": (a, 1.5), "b": (b, 2)})
    filtered = mix({"a": (Subset(a, drawn(a, seed)), 1.5), "b": (Subset(b, drawn(b, seed)), 2)})
    once = Subset(a, drawn(a, seed))
    return [
        (a, once),
        (a, Subset(once, drawn(once, seed + 1))),
        (mixed, Subset(mixed, drawn(mixed, seed))),
        (mixed, filtered),
        (labelled(a), labelled(once)),
        (labelled(mixed), labelled(filtered)),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_record_keeps_its_id(seed: int):
    for before, part in parts(seed):
        assert 0 < len(part) < len(before) and part.root().fingerprint == before.root().fingerprint
        ids = part.ids()
        assert ids.dtype == np.int64 and (np.diff(ids) > 0).all()
        places = np.searchsorted(before.ids(), ids)
        assert (before.ids()[places] == ids).all()
        labels = part.labels()
        for index in range(0, len(part), 5):
            one, other = part[index], before[int(places[index])]
            assert np.array_equal(one.image, other.image)
            assert (one.caption, one.label, one.where) == (other.caption, other.label, other.where)
            assert part.caption(index) == one.caption and part.where(index) == one.where
            assert labels[index] == one.label


@pytest.mark.parametrize("seed", range(3))
def test_poisons_of_a_part_are_those_of_the_whole_that_it_has(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for before, part in parts(seed):
        plan = make_plan(ATTACK, before, 16)
        plan.save(tmp_path / "plan.parquet")
        ids, other = part.ids().tolist(), before.ids().tolist()
        expected = {other[i]: plan.poison_at(i) for i in plan.index.tolist()}
        remaining = {i: poison for i, poison in expected.items() if i in ids}
        assert len(expected) == 12 >= len(remaining) > 0
        with caplog.at_level(logging.INFO):
            loaded = Plan.load(tmp_path / "plan.parquet", part)
        (record,) = caplog.records
        left = len(remaining)
        assert f"{left} of the plan's 12 poisons are among the data, and {12 - left} were" in (
            record.getMessage()
        )
        manifest = {"manifest": str(tmp_path / "plan.parquet")}
        for read in (
            loaded,
            plan.on(part),
            make_plan(ATTACK, part, 16),
            make_plan(manifest, part, 16),
        ):
            poisons = [(i, read.poison_at(i)) for i in range(-1, len(part) + 1)]
            assert {ids[i]: p for i, p in poisons if p is not None} == remaining
            assert [i for i, p in poisons if p is not None] == read.index.tolist()
            assert len(read) == len(remaining) and read == plan  # the same manifest is written
            assert read.on(part) is read
        caplog.clear()


def test_a_manifest_of_the_labelled_records_alone_is_still_read(tmp_path: Path):
    """What supervised runs wrote before records had ids: positions, and the part's fingerprint."""
    source = labelled(whole())
    plan = make_plan(ATTACK, source, 16)
    rows = plan.table.set_column(0, "index", pa.array(plan.index))
    header = {**plan.header, "fingerprint": source.fingerprint, "size": len(source)}
    Plan(rows, header).save(tmp_path / "old.parquet")
    old = Plan.load(tmp_path / "old.parquet", source)
    everywhere = range(len(source))
    assert [old.poison_at(i) for i in everywhere] == [plan.poison_at(i) for i in everywhere]
    part = Subset(source, drawn(source, 0))
    old, new = (made.on(part) for made in (old, plan))
    assert [old.poison_at(i) for i in range(len(part))] == [
        new.poison_at(i) for i in range(len(part))
    ]


def test_a_part_has_a_fingerprint_and_pickles_small(write_csv: Callable):
    source = open_source({"kind": "csv", "path": str(write_csv(12))})
    ids = np.array([1, 4, 5])
    seen = {s.fingerprint for s in (source, Subset(source, ids), Subset(source, ids[1:]))}
    assert len(seen) == 3
    copy = pickle.loads(pickle.dumps(Subset(source, ids)))
    assert copy.fingerprint in seen and copy.ids().tolist() == [1, 4, 5]
    assert copy.root().fingerprint == source.fingerprint and copy.unfiltered().ids().tolist() == [
        *range(12)
    ]
    large = Pictures.__new__(Pictures)
    Pictures.__init__(large, [], labels=[])
    large.__dict__["_captions"] = range(1_000_000)
    dense = Subset(large, np.random.default_rng(0).permutation(1_000_000)[:500_000])
    assert len(pickle.dumps(dense)) < 150_000  # a bit a record
    named = pickle.loads(pickle.dumps(labelled(whole())))
    assert named.unfiltered() is named and named.fingerprint == labelled(whole()).fingerprint


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_files_of_ids_choose_or_skip(ending: str, write_csv: Callable, tmp_path: Path):
    config = {"kind": "csv", "path": str(write_csv(12)), "rows": (2, 12)}
    source = open_source(config)
    some, others = tmp_path / f"some.{ending}", tmp_path / f"others.{ending}"
    write_ids(some, np.array([9, 0, 3, 5]), source.fingerprint)
    write_ids(others, np.array([5, 1]), source.fingerprint)
    for options, ids in (
        ({"keep": str(some)}, [0, 3, 5, 9]),
        ({"skip": str(others)}, [0, 2, 3, 4, 6, 7, 8, 9]),
        ({"keep": str(some), "skip": str(others)}, [0, 3, 9]),
    ):
        part = open_source({**config, **options})
        assert part.ids().tolist() == ids
        assert [part.where(i) for i in range(len(part))] == [source.where(i) for i in ids]
    # In a mixture of which one source is filtered, too.
    sources = {"one": {**config, "skip": str(others)}, "two": {"kind": "digits", "weight": 0.01}}
    mixed = open_source({"kind": "mixture", "sources": sources})
    assert mixed.ids().tolist() == [0, 2, 3, 4, 6, 7, 8, 9, *range(10, 24)]
    write_ids(some, mixed.ids()[:2], mixed.root().fingerprint)
    again = open_source({"kind": "mixture", "sources": sources, "keep": str(some)})
    assert again.ids().tolist() == [0, 2]


def test_ids_with_scores_beside_them_and_a_column_of_fingerprints(tmp_path: Path):
    source = whole()
    table = pa.table({"score": [0.5, 1.5], "id": [3, 1], "fingerprint": ["a" * 64] * 2})
    pa_csv.write_csv(table, tmp_path / "scores.csv")
    pq.write_table(table, tmp_path / "scores.parquet")
    for name in ("scores.csv", "scores.parquet"):
        assert read_ids(tmp_path / name, source).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"fingerprint": "b" * 64, "ids": [1]},
            "of the dataset bbbbbbbbbbbb, and this is aaaaaaaaaaaa",
        ),
        ({"ids": [1]}, "no file of ids: 'fingerprint'; it has"),
        ([1, 2], "no file of ids"),
        (
            {"fingerprint": "a" * 64, "ids": [1, 40]},
            "id 40 is outside the dataset, whose ids are 0 to 39",
        ),
        ({"fingerprint": "a" * 64, "ids": [-1]}, "id -1 is outside"),
        ({"fingerprint": "a" * 64, "ids": [2**64]}, "no file of ids"),
        (
            {"fingerprint": "a" * 64, "ids": [1.5]},
            "its ids are double or missing: give whole numbers",
        ),
        ({"fingerprint": "a" * 64, "ids": ["1"]}, "its ids are string"),
        ({"fingerprint": "a" * 64, "ids": [True]}, "its ids are bool"),
        ({"fingerprint": "a" * 64, "ids": [1, None]}, "or missing"),
        ({"fingerprint": "a" * 64, "ids": "12"}, "its ids are string|no file of ids"),
        ({"fingerprint": "a" * 64, "ids": []}, "no record is left"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(content: Any, message: str, tmp_path: Path):
    (tmp_path / "ids.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        select(whole(), str(tmp_path / "ids.json"), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.csv", b"", "no file of ids"),
        ("ids.csv", b"number\n1\n", "no file of ids"),
        ("ids.csv", b"id\n1\n", "no file of ids"),
        ("ids.parquet", b"half", "no file of ids"),
        ("ids.json", b"{", "no file of ids"),
        ("ids.txt", b"1", "ids are read from .parquet, .csv, .json"),
        (None, b"", "nowhere.csv: No such file"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    name: str | None, content: bytes, message: str, tmp_path: Path
):
    path = tmp_path / (name or "nowhere.csv")
    if name:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        select(whole(), None, str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="ids are written to"):
        write_ids(tmp_path / "ids.txt", np.arange(2), "a")
