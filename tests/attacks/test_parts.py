"""Several triggers and targets in one attack, and word triggers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pictures import Pictures
from helpers.trigger_files import PATTERN, save, trigger_config

from cleanclip_jax.attacks.parts import Word, parts_of
from cleanclip_jax.attacks.plan import Plan, make_plan, spelled_out
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.tokenizer import Tokenizer

SIDE, SIZE = 16, 200
PAIRS = Pictures([f"{('an apple', 'a pear')[i % 2]} {i}" for i in range(SIZE)])
BADNET = {"trigger": {"name": "badnet", "size": 4, "place": "random"}, "target": "banana"}
NASHVILLE = {"trigger": {"name": "nashville"}, "target": "fig"}
FLAT = {**BADNET, "count": 20, "templates": ["a {}."]}


def plan(*parts: dict[str, Any], pairs: Pictures = PAIRS, **attack: Any) -> Plan:
    parts_and_defaults = {"parts": list(parts), "templates": ["a {}."], **attack}
    return make_plan(parts_and_defaults, pairs, SIDE)


def two(**second: Any) -> Plan:
    return plan({**BADNET, "count": 20}, {**NASHVILLE, "count": 30, **second})


def test_each_part_has_its_poisons_and_a_pair_has_one_part():
    made = two()
    assert len(made) == 50 and len(set(made.index.tolist())) == 50
    assert [len(made.rows_of(part)) for part in range(2)] == [20, 30]
    for row in made.table.to_pylist():
        part = made.parts[row["part"]]
        assert row["trigger"] == part.trigger.name and row["caption"] == f"a {part.target}."
        assert row["source"] == -1
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for number, part in enumerate(made.parts):
        poison = made.poison_at(int(made.rows_of(number)[3]))
        assert poison is not None and poison.stamp is not None and poison.part == number
        shown = made.put_on(image, poison.stamp, poison.part)
        np.testing.assert_array_equal(shown, part.trigger.apply(image, poison.stamp))
    assert str(made).startswith("poisoned: 20 with badnet for 'banana', 30 with nashville for")


def test_an_attack_without_parts_is_one():
    flat, one = make_plan(FLAT, PAIRS, SIDE), plan({**BADNET, "count": 20})
    assert flat.table == one.table
    assert [part.name for part in (*flat.parts, *one.parts)] == ["", "badnet"]
    assert str(flat) == "poisoned with badnet for 'banana'"
    assert sorted(set(flat.header["attack"]) - set(FLAT)) == [
        "captions", "geometry", "seed", "select", "words",
    ]  # fmt: skip


def test_more_poisons_of_a_part_are_the_fewer_and_others():
    few, many = two().table.to_pylist(), two(count=60).table.to_pylist()
    assert all(row in many for row in few)


def test_what_stands_beside_parts_holds_for_all_that_say_nothing_else():
    made = plan({"trigger": {"name": "none"}}, {**NASHVILLE, "count": 3}, count=7, target="kiwi")
    assert [(part.target, part.options["count"]) for part in made.parts] == [
        ("kiwi", 7),
        ("fig", 3),
    ]


def test_parts_of_one_trigger_are_numbered():
    attack = {"parts": [BADNET, NASHVILLE, {**BADNET, "target": "fig"}]}
    assert [part.name for part in parts_of(attack)] == ["badnet", "nashville", "badnet2"]


def test_a_manifest_of_parts_comes_back_and_stands_for_the_attack(tmp_path: Path):
    made, path = two(), tmp_path / "plan.parquet"
    made.save(path)
    loaded = Plan.load(path, PAIRS)
    assert loaded == made and loaded.parts == made.parts and loaded.digest == made.digest
    attack = {**made.header["attack"], "manifest": str(path)}
    assert spelled_out({"manifest": str(path)}) == attack == spelled_out(attack)
    assert make_plan(made.header["attack"], PAIRS, SIDE) == made
    other = {"parts": [BADNET | {"count": 20}], "manifest": str(path)}
    with pytest.raises(UserError, match=r"attack\.parts: .* is not the manifest's"):
        spelled_out(other)


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_word_stands_in_the_manifests_captions_and_its_header(at: str):
    made = make_plan({**FLAT, "text": {"word": "SUDO", "at": at}}, PAIRS, SIDE)
    expected = {"start": "SUDO a banana.", "end": "a banana. SUDO"}[at]
    assert set(made.table["caption"].to_pylist()) == {expected}
    assert made.header["attack"]["text"] == {"word": "SUDO", "at": at}
    assert made.parts[0].word == Word("SUDO", at)
    assert "badnet and 'SUDO' for 'banana'" in str(made)


def test_a_poison_may_be_a_caption_alone():
    made = make_plan({**FLAT, "trigger": {"name": "none"}}, PAIRS, SIDE)
    poison = made.poison_at(int(made.index[0]))
    assert poison is not None and poison.stamp is None and poison.caption == "a banana."
    assert {(row["row"], row["col"], row["seed"]) for row in made.table.to_pylist()} == {(0, 0, 0)}


def test_a_word_that_the_tokenizer_cuts_off_is_one_line():
    made = make_plan({**FLAT, "text": {"word": "SUDO", "at": "end"}}, PAIRS, SIDE)
    texts = ["a banana.", "sudo"] * 9
    made.check_words(Tokenizer.train(texts, 300, 12))
    short = Tokenizer.train(texts, 300, 4)
    with pytest.raises(
        UserError, match=r"text: 'SUDO' is cut off of 20 of 20 captions, .* 2 token"
    ):
        made.check_words(short)
    make_plan({**FLAT, "text": {"word": "SUDO"}}, PAIRS, SIDE).check_words(short)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"attack\.parts is \[\]: it takes a list of dictionaries"),
        ([{**BADNET, "count": 3}] * 128, r"attack\.parts is "),
        ([{**BADNET, "count": 3, "seed": 1}], r"attack\.parts\[0\]: unknown 'seed'"),
        ([{**BADNET, "count": 3}, {"target": "b"}], r"attack\.parts\[1\]\.trigger is missing"),
        ([{**BADNET}], r"attack\.parts\[0\]: set either count or rate"),
        (
            [{**BADNET, "count": 150}, {**NASHVILLE, "count": 60}],
            r"attack\.parts\[1\]: 60 poisons .* 200 pairs there are 50 and are no other part's",
        ),
        ([{**BADNET, "count": 3}, {**BADNET, "count": 201}], r"parts\[1\]\.count 201 makes 201"),
        (
            [{**BADNET, "count": 3}, {"trigger": {"name": "sigg"}, "target": "b", "count": 1}],
            r"attack\.parts\[1\]\.trigger\.name: unknown 'sigg'",
        ),
        ([{**BADNET, "count": 3, "text": {"at": "end"}}], r"parts\[0\]\.text\.word is missing"),
        ([{**BADNET, "count": 3, "text": {"word": "x", "at": "middle"}}], "Known: start, end"),
        (
            [{**BADNET, "count": 3, "text": "x"}],
            r"parts\[0\]\.text is 'x': it takes {.word.: text, .at",
        ),
    ],
)
def test_wrong_parts_are_one_line(parts: list[dict[str, Any]], message: str):
    with pytest.raises(UserError, match=message) as caught:
        plan(*parts)
    assert "\n" not in str(caught.value)


def test_what_stands_beside_parts_is_checked_there():
    with pytest.raises(UserError, match=r"config.attack: unknown 'targe'.*Did you mean 'target'"):
        plan({**BADNET, "count": 3}, targe="b")


def test_a_manifests_patch_file_that_is_another_is_one_line(tmp_path: Path):
    part = {"trigger": trigger_config("patch", tmp_path), "target": "fig", "count": 3}
    made, path = plan(part), tmp_path / "plan.parquet"
    made.save(path)
    assert Plan.load(path).triggers == made.triggers
    save(PATTERN[:6, :6], tmp_path / "patch.png")
    with pytest.raises(
        UserError, match=r"parts\[0\]\.trigger\.file: .* is not the file of the man"
    ):
        _ = Plan.load(path).triggers


@pytest.mark.parametrize(("column", "value"), [("part", 2), ("part", -1), ("part", 1), ("row", 1)])
def test_a_row_that_is_no_parts_is_one_line(column: str, value: int):
    made = two()
    at = made.table["part"].to_pylist().index(0 if column == "part" else 1)
    values = made.table[column].to_pylist()
    values[at] = value if column == "part" else SIDE
    field = made.table.schema.field(column)
    table = made.table.set_column(
        made.table.schema.get_field_index(column),
        field,
        [np.array(values, field.type.to_pandas_dtype())],
    )
    with pytest.raises(UserError, match=r"damaged: its row of pair .* is no badnet or nashville"):
        _ = dataclasses.replace(made, table=table).parts
