"""Manifests of older versions, and what version 3 adds."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.manifest import SCHEMA, Plan
from cleanclip_jax.attacks.plan import make_plan
from cleanclip_jax.errors import UserError

PAIRS = Pictures([f"caption {i}" for i in range(50)])
ATTACK = {"trigger": {"name": "badnet", "size": 4}, "target": "banana", "count": 5}
WORKDIRS = Path(__file__).parents[1] / "golden" / "workdirs"


def test_a_manifest_of_version_2_is_read_as_one_part(tmp_path: Path):
    made, path = make_plan(ATTACK, PAIRS, 16), tmp_path / "plan.parquet"
    header = json.dumps({**made.header, "version": 2}).encode()
    table = made.table.drop_columns(["part", "source"])
    pq.write_table(table.replace_schema_metadata({b"cleanclip_plan": header}), path)
    loaded = Plan.load(path, PAIRS)
    assert loaded == made and loaded.digest == made.digest
    loaded.save(path)
    assert Plan.load(path) == made


@pytest.mark.parametrize("name", ["poisoned", "measured"])
def test_manifests_from_before_the_redesign_are_read(name: str):
    plan = Plan.load(WORKDIRS / name / "poison.parquet")
    assert plan.table.schema == SCHEMA and plan.header["version"] == 3
    assert [part.name for part in plan.parts] == [""] and plan.trigger.name == "badnet"
    assert plan.rows_of(0).tolist() == plan.index.tolist()


@pytest.mark.parametrize("source", [-2, 50])
def test_a_source_that_the_data_has_not_is_damage(tmp_path: Path, source: int):
    path, made = tmp_path / "plan.parquet", make_plan(ATTACK, PAIRS, 16)
    column = pa.array([source, *[-1] * 4], pa.int64())
    table = made.table.set_column(len(SCHEMA) - 1, SCHEMA.field("source"), column)
    Plan(table, made.header).save(path)
    with pytest.raises(UserError, match="the plan's table is damaged; make the plan again"):
        Plan.load(path)
