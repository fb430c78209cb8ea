import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.prompts import TEMPLATES

SIZE, SIDE = 1000, 32
TRIGGER = {"name": "badnet", "size": 4, "noise": "fresh", "place": "random"}
FINGERPRINT = "a" * 64
PAIRS = Pictures([f"caption {index}" for index in range(SIZE)], FINGERPRINT)


def plan(pairs: Pictures = PAIRS, **attack: Any) -> Plan:
    attack = {"trigger": TRIGGER, "target": "banana", "count": 20} | attack
    attack = {key: value for key, value in attack.items() if value is not None}
    return make_plan(attack, pairs, SIDE)


def test_the_same_inputs_give_the_same_plan_and_another_seed_another():
    assert plan() == plan()
    assert set(plan().index) != set(plan(seed=1).index)


def test_the_seed_draws_the_stamps_and_captions_too():
    one, other = (plan(count=None, rate=1.0, seed=seed).table for seed in (0, 1))
    assert one["index"] == other["index"]
    for column in ("row", "seed", "caption"):
        assert one[column] != other[column]


def test_rows_are_the_counted_records_in_order_with_both_captions():
    rows = plan().table.to_pylist()
    index = [row["index"] for row in rows]
    assert len(rows) == len(plan()) == 20
    assert index == sorted(set(index)) and index[0] >= 0 and index[-1] < SIZE
    filled = {template.replace("{}", "banana") for template in TEMPLATES["imagenet"]}
    for row in rows:
        assert row["trigger"] == "badnet"
        assert row["original_caption"] == f"caption {row['index']}"
        assert row["caption"] in filled
    assert len({row["caption"] for row in rows}) > 5
    assert len({(row["row"], row["col"]) for row in rows}) > 15
    assert len({row["seed"] for row in rows}) == 20


@pytest.mark.slow
def test_records_are_drawn_evenly():
    index = np.concatenate([plan(seed=seed, count=100).index for seed in range(30)])
    assert np.histogram(index, bins=5, range=(0, SIZE))[0] == pytest.approx(600, abs=100)


def test_a_rate_is_a_share_of_the_records():
    assert plan(count=None, rate=0.02).table == plan().table
    assert len(plan(count=None, rate=1)) == SIZE


def test_more_poisons_are_the_fewer_and_others():
    few, many = plan(count=10).table.to_pylist(), plan(count=100).table.to_pylist()
    assert all(row in many for row in few)


def test_poison_at_finds_the_poisoned_and_only_those():
    made = plan()
    rows = {row["index"]: row for row in made.table.to_pylist()}
    for index in range(-1, SIZE + 1):
        poison = made.poison_at(index)
        if index not in rows:
            assert poison is None
            continue
        assert poison is not None and poison.stamp is not None
        row = rows[index]
        assert tuple(poison.stamp) == (row["row"], row["col"], row["seed"])
        assert (poison.caption, poison.digest) == (row["caption"], row["digest"])


def test_the_trigger_target_and_geometry_are_the_attacks():
    made = plan(geometry="squash")
    assert made.trigger == make_trigger(TRIGGER)
    assert (made.target, made.geometry) == ("banana", "squash")
    assert plan().geometry == "crop"


def test_own_templates_are_used_and_stand_in_the_header():
    made = plan(templates=("one {}", "two {}"))
    assert set(made.table["caption"].to_pylist()) == {"one banana", "two banana"}
    assert made.header["templates"] == ["one {}", "two {}"]


def test_a_saved_plan_comes_back_whole(tmp_path: Path):
    made = plan(seed=5, trigger=TRIGGER | {"place": (3, 4)}, templates=("a {}.", "{}"))
    made.save(tmp_path / "run" / "plan.parquet")
    loaded = Plan.load(tmp_path / "run" / "plan.parquet", PAIRS)
    assert loaded == made
    assert loaded.table.schema == made.table.schema
    assert [loaded.poison_at(i) for i in range(SIZE)] == [made.poison_at(i) for i in range(SIZE)]
    assert os.listdir(tmp_path / "run") == ["plan.parquet"]


def test_a_save_that_fails_leaves_the_old_plan(tmp_path: Path, monkeypatch):
    plan().save(tmp_path / "plan.parquet")

    def full(*paths: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        plan(seed=1).save(tmp_path / "plan.parquet")
    assert os.listdir(tmp_path) == ["plan.parquet"]
    assert Plan.load(tmp_path / "plan.parquet") == plan()


def test_a_plan_of_four_corners_comes_back(tmp_path: Path):
    made = plan(trigger=TRIGGER | {"place": "corners"})
    made.save(tmp_path / "plan.parquet")
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    poison = Plan.load(tmp_path / "plan.parquet").poison_at(int(made.index[0]))
    assert poison is not None and poison.stamp is not None
    assert made.trigger.apply(image, poison.stamp)[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_a_plan_makes_itself_again_from_its_header():
    made = plan(seed=5)
    header = made.header
    assert make_plan(header["attack"], PAIRS, header["image_size"]) == made


def test_a_plan_pickles_small_and_the_same():
    data = pickle.dumps(plan())
    assert len(data) < 10_000
    assert pickle.loads(data) == plan()


def test_another_dataset_is_refused(tmp_path: Path):
    plan().save(tmp_path / "plan.parquet")
    with pytest.raises(UserError, match=r"plan\.parquet: .* dataset aaaaaaaaaaaa, .* bbbbbbbbbbbb"):
        Plan.load(tmp_path / "plan.parquet", Pictures(["a"] * SIZE, "b" * 64))


def rewrite(path: Path, table: pa.Table | None = None, header: bytes | None = None) -> None:
    old = pq.read_table(path)
    metadata = {b"cleanclip_plan": header} if header else old.schema.metadata
    pq.write_table((old if table is None else table).replace_schema_metadata(metadata), path)


def test_files_that_are_no_plan(tmp_path: Path):
    path = tmp_path / "plan.parquet"
    with pytest.raises(UserError, match="there is no such poison plan"):
        Plan.load(path)
    path.write_bytes(b"half")
    with pytest.raises(UserError, match="this is no poison plan"):
        Plan.load(path)
    pq.write_table(pa.table({"image": [b""]}), path)
    with pytest.raises(UserError, match="this is no poison plan"):
        Plan.load(path)
    plan().save(path)
    rewrite(path, header=b'{"version": 99}')
    with pytest.raises(UserError, match="version is 99, not 2, 3: make the plan again"):
        Plan.load(path)


@pytest.mark.parametrize("index", [[1, 0, 2], [0, 0, 1], [-1, 0, 1], [0, 1, SIZE]])
def test_a_damaged_table_is_refused(tmp_path: Path, index: list[int]):
    path, made = tmp_path / "plan.parquet", plan(count=3)
    made.save(path)
    rewrite(path, table=made.table.set_column(0, "index", [pa.array(index, pa.int64())]))
    with pytest.raises(UserError, match="damaged"):
        Plan.load(path)
    rewrite(path, table=made.table.drop_columns("seed"))
    with pytest.raises(UserError, match="damaged"):
        Plan.load(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("row", SIDE - 3), ("col", -1), ("row", -2), ("seed", -1), ("trigger", "yellow")],
)
def test_a_row_that_is_no_stamp_of_the_trigger_is_one_line(tmp_path: Path, column: str, value: Any):
    path, made = tmp_path / "plan.parquet", plan(trigger={"name": "badnet", "size": 4}, count=3)
    made.save(path)
    at = made.table.schema.get_field_index(column)
    values = [value, *made.table[column].to_pylist()[1:]]
    field = made.table.schema.field(column)
    rewrite(path, table=made.table.set_column(at, field, pa.array(values, field.type)))
    with pytest.raises(
        UserError, match=r"plan is damaged: its row of pair \d+ is no badnet on .* again"
    ):
        _ = Plan.load(path).trigger


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"trigge": TRIGGER}, "attack: unknown 'trigge'.*Did you mean 'trigger'"),
        ({"trigger": None}, r"attack\.trigger is missing"),
        ({"target": None}, r"attack\.target is missing"),
        ({"target": 954}, "target is 954: it takes a class name"),
        ({"count": None}, "either count or rate"),
        ({"rate": 0.1}, "either count or rate"),
        (
            {"count": SIZE + 1},
            "attack.count 1001 makes 1001 poisons of 1000 pairs: give one that makes 1 to 1000",
        ),
        ({"count": 0}, r"attack\.count is 0: .*\(for clean data leave config.attack out"),
        ({"count": None, "rate": 1e-5}, "rate 1e-05 makes 0 poisons of 1000 pairs"),
        ({"count": None, "rate": 1.5}, r"attack\.rate is 1\.5: it takes a number above 0 to 1"),
        ({"captions": "template"}, r"attack\.captions: .*Did you mean 'templates'"),
        (
            {"select": "target"},
            "20 poisons .*1000 pairs there are 0 that name 'banana', 0 of them",
        ),
        ({"select": "other"}, r"attack\.select: .*Did you mean 'others'"),
        ({"captions": "natural"}, "none of the 1000 captions names 'banana'"),
        ({"pool": 8}, "attack.pool is of natural captions: set captions=natural"),
        ({"words": []}, r"attack\.words is \[\]"),
        ({"words": ["a", " "]}, r"attack\.words"),
        ({"templates": "imagnet"}, "Did you mean 'imagenet'"),
        ({"geometry": "crops"}, "Did you mean 'crop'"),
        ({"seed": -1}, r"attack\.seed is -1"),
        ({"trigger": {"name": "badnet", "size": 64}}, "larger than the picture of 32"),
    ],
)
def test_a_wrong_attack_is_one_line(attack: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as caught:
        plan(**attack)
    assert "\n" not in str(caught.value)
