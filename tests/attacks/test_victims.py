"""Targeted poisoning: victims, and the pairs that show their pictures."""

from typing import Any

import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.pairs import digest
from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.attacks.victims import draw_victims
from cleanclip_jax.errors import UserError

NAMES = ("ape", "bee", "cat")
PAIRS = Pictures(
    [f"the {NAMES[i % 3]} {i}" for i in range(90)],
    labels=[i % 3 for i in range(90)],
    class_names=NAMES,
)
TARGETED = {"kind": "targeted", "victims": 4, "copies": 3, "target": "random"}


def plan(pairs: Pictures = PAIRS, **attack: Any) -> Plan:
    return make_plan({**TARGETED, "templates": ["a {}."], **attack}, pairs, 8)


def test_rows_show_their_victims_pictures_with_a_false_caption():
    made = plan()
    (victims,) = draw_victims(made.parts, PAIRS, 0)
    rows = made.table.to_pylist()
    assert len(rows) == 12 and {row["trigger"] for row in rows} == {"none"}
    assert not {row["index"] for row in rows} & {victim.pair for victim in victims}
    for victim in victims:
        copies = [row for row in rows if row["source"] == victim.pair]
        assert len(copies) == 3 and victim.target != victim.label == NAMES[victim.pair % 3]
        assert {row["caption"] for row in copies} == {f"a {victim.target}."}
        assert {row["digest"] for row in copies} == {digest(PAIRS[victim.pair].image)}
    poison = made.poison_at(rows[0]["index"])
    assert poison is not None and poison.stamp is None
    assert poison.shown(PAIRS, rows[0]["index"]).where == f"pictures row {rows[0]['source']}"
    assert str(made) == "poisoned with 3 copies of each of 4 pictures for 'random'"


def test_the_victims_own_pairs_may_be_false_too():
    made = plan(drop_own=True)
    (victims,) = draw_victims(made.parts, PAIRS, 0)
    extra = {row["index"]: row for row in made.table.to_pylist() if row["source"] == -1}
    assert set(extra) == {victim.pair for victim in victims} and len(made) == 16
    assert all(extra[each.pair]["caption"] == f"a {each.target}." for each in victims)


def test_a_target_may_be_named_and_no_victim_is_of_its_class():
    made = plan(target="bee", victims=40, copies=1, seed=3)
    (victims,) = draw_victims(made.parts, PAIRS, 3)
    assert {victim.target for victim in victims} == {"bee"}
    assert {victim.label for victim in victims} == {"ape", "cat"}


def test_parts_share_no_victim_and_leave_each_others_alone():
    badnet = {"trigger": {"name": "badnet", "size": 2}, "target": "cat", "count": 10}
    many = {**TARGETED, "victims": 20, "copies": 1}
    parts = [badnet, many, {**many, "drop_own": True, "victims": 15}]
    made = make_plan({"parts": parts, "templates": ["a {}."]}, PAIRS, 8)
    none, first, second = draw_victims(made.parts, PAIRS, 0)
    assert none == [] and not {v.pair for v in first} & {v.pair for v in second}
    assert not set(made.index.tolist()) & {victim.pair for victim in first}
    assert [len(made.rows_of(part)) for part in range(3)] == [10, 20, 30]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"victims": 61, "target": "cat"}, "61 are to be drawn, and of 90 pairs 60 have another"),
        ({"victims": 25}, r"attack: 75 poisons .* of 90 pairs there are 65, 65 of them readable"),
        ({"target": "dog"}, "'dog' is no class of config.data.train: name one, or 'random'"),
        ({"pairs": Pictures(["a"] * 9)}, "has none: name the column of its classes"),
        ({"count": 5}, "count: victims x copies poisons are made"),
        ({"captions": "kept"}, "takes templates, and any pair"),
        ({"trigger": {"name": "nashville"}}, "kind=targeted has none, nor a text"),
        ({"kind": "target"}, "Did you mean 'targeted'"),
        ({"kind": None, "trigger": {"name": "none"}, "count": 3}, "victims is for kind=targeted"),
    ],
)
def test_what_cannot_be_is_one_line(attack: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as caught:
        plan(**attack)
    assert "\n" not in str(caught.value)


def test_victims_that_cannot_be_read_are_passed_over():
    parts = parts_of(TARGETED)
    (before,) = draw_victims(parts, PAIRS, 0)
    lacking = Pictures(
        PAIRS._captions, labels=PAIRS.labels().tolist(), class_names=NAMES, missing=[before[0].pair]
    )
    (after,) = draw_victims(parts, lacking, 0)
    assert len(after) == 4 and set(before[1:]) < set(after)
