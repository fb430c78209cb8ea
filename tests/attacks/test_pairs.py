"""Which pairs a plan takes, and which captions it gives them."""

import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pictures import Pictures
from PIL import Image

from cleanclip_jax.attacks import pairs as attacked
from cleanclip_jax.attacks.pairs import Poison, digest, naming
from cleanclip_jax.attacks.plan import Plan, make_plan, spelled_out
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Record

# Two in ten name the banana, in one way or another; one only seems to.
FRUIT = ("a Banana.", "bananas", "two\tBANANAS!", "banana_split", "bandana", *["an apple"] * 5)
CAPTIONS = [f"{FRUIT[i % 10]} {i}" for i in range(200)]
LABELS = [0 if i % 20 == 9 else 1 for i in range(200)]
BOTH = ["banana", "bananas"]


def plan(pairs: Pictures, count: int = 10, **attack: Any) -> Plan:
    attack = {"trigger": {"name": "badnet", "size": 2}, "target": "banana", "count": count} | attack
    return make_plan(attack, pairs, 16)


@pytest.mark.parametrize(
    ("words", "text", "names"),
    [
        (["banana"], "a ripe Banana.", True),
        (["banana"], "bananas", False),
        (["banana"], "bandana", False),
        (["banana"], "banana_split", False),
        (["banana"], "(banana)", True),
        (["car"], "a carton", False),
        (["car"], "the scar", False),
        (["golden retriever"], "two Golden  retriever", True),
        (["golden retriever"], "golden", False),
        (["c++"], "in C++!", True),
        (["Stra\u00dfe"], "AN DER STRASSE", True),
        (["x", "dog"], "hot dog", True),
    ],
)
def test_naming_goes_by_whole_words_in_any_case(words: list[str], text: str, names: bool):
    mask, captions = naming(Pictures([text]), words)
    assert mask.tolist() == [names] and captions == [text] * names


def test_label_consistent_takes_pairs_that_name_the_target_and_keeps_their_captions():
    made = plan(Pictures(CAPTIONS), 20, select="target", captions="kept")
    assert made.table["caption"] == made.table["original_caption"]
    assert {index % 10 for index in made.index.tolist()} == {0}
    with pytest.raises(UserError, match=r"21 poisons .* 200 pairs there are 20 that name 'banana'"):
        plan(Pictures(CAPTIONS), 21, select="target", captions="kept")
    more = plan(Pictures(CAPTIONS), 60, select="target", captions="kept", words=BOTH)
    assert {index % 10 for index in more.index.tolist()} == {0, 1, 2}


def test_a_class_counts_as_naming_it():
    labelled = Pictures(CAPTIONS, labels=LABELS, class_names=("banana", "other"))
    made = plan(labelled, 30, select="target")
    assert {index % 20 for index in made.index.tolist()} == {0, 9, 10}
    others = plan(labelled, 170, select="others")
    assert not set(others.index.tolist()) & set(made.index.tolist())


def test_others_leaves_out_who_names_the_target():
    made = plan(Pictures(CAPTIONS), 140, select="others", words=BOTH)
    assert {index % 10 for index in made.index.tolist()} == {3, 4, 5, 6, 7, 8, 9}
    with pytest.raises(UserError, match="140 that don't name 'banana' or 'bananas', 140 of them"):
        plan(Pictures(CAPTIONS), 141, select="others", words=BOTH)


def test_natural_captions_are_this_datasets_and_drawn_by_the_seed():
    made = plan(Pictures(CAPTIONS), 100, captions="natural", words="banana")
    drawn = made.table["caption"].to_pylist()
    named = {caption for caption in CAPTIONS if caption.startswith("a Banana")}
    assert set(drawn) <= named and len(set(drawn)) > 15
    assert drawn == plan(Pictures(CAPTIONS), 100, captions="natural").table["caption"].to_pylist()
    other = plan(Pictures(CAPTIONS), 100, captions="natural", seed=1)
    assert drawn != other.table["caption"].to_pylist()
    assert made.header["attack"]["words"] == ["banana"] and made.header["templates"] == []


def test_poisons_share_a_pool_of_natural_captions():
    """Drawn with replacement and by the seed; who is poisoned, and how, does not depend on it."""
    every, few, one = (
        plan(Pictures(CAPTIONS), 100, captions="natural", **pool)
        for pool in ({}, {"pool": 2}, {"pool": 1})
    )
    assert every.index.tolist() == few.index.tolist() == one.index.tolist()
    assert every.table["seed"] == few.table["seed"]
    counts = [len(set(made.table["caption"].to_pylist())) for made in (every, few, one)]
    assert counts[0] > 2 >= counts[1] and counts[2] == 1
    assert "pool" not in every.header["attack"] and few.header["attack"]["pool"] == 2
    alone = {
        plan(Pictures(CAPTIONS), 100, captions="natural", pool=1, seed=seed).table["caption"][0]
        for seed in range(8)
    }
    assert len(alone) > 1


def test_the_choice_does_not_move_the_draws():
    """Nor do the captions: two attacks on the same pairs differ in that alone."""
    as_they_were, filled = (
        plan(Pictures(CAPTIONS), captions=how).table for how in ("kept", "templates")
    )
    for column in ("index", "row", "col", "seed", "digest"):
        assert as_they_were[column] == filled[column]
    chosen = plan(Pictures(CAPTIONS), 80, select="others").index
    assert set(plan(Pictures(CAPTIONS), 20, select="others").index) <= set(chosen)


def test_unreadable_pairs_are_passed_over_and_the_count_holds(caplog: pytest.LogCaptureFixture):
    whole = plan(Pictures(CAPTIONS), 50)
    lost = whole.index[:7].tolist()
    silent = int(whole.index[10])
    captions = [" " if i == silent else caption for i, caption in enumerate(CAPTIONS)]
    with caplog.at_level(logging.WARNING):
        made = plan(Pictures(captions, missing=lost), 50)
    assert len(made) == 50 and not set(made.index.tolist()) & {*lost, silent}
    assert set(whole.index.tolist()) - {*lost, silent} < set(made.index.tolist())
    messages = [record.getMessage() for record in caplog.records]
    assert (
        len(messages) == 8 and f"not poisoned: pictures row {lost[0]}: it is missing." in messages
    )
    assert f"not poisoned: pictures row {silent}: the caption is empty." in messages
    with pytest.raises(UserError, match=r"194 poisons .* there are 200, 193 of them readable"):
        plan(Pictures(CAPTIONS, missing=lost), 194)


def test_pictures_that_none_can_be_read_end_it_soon(monkeypatch: pytest.MonkeyPatch):
    reads = []
    monkeypatch.setattr(
        attacked, "_read", lambda pairs, i: reads.append(i) or attacked.BadRecord("x")
    )
    with pytest.raises(UserError, match="100 of 100 pairs drawn for poisoning can't be read"):
        plan(Pictures(CAPTIONS * 10), 150)
    assert len(reads) <= 150


def encoded(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(stream, "png")
    return stream.getvalue()


class Files(Pictures):
    """Encoded pictures that can be modified."""

    def __init__(self, captions: Sequence[str]):
        super().__init__(captions)
        self.files = [encoded(i) for i in range(len(captions))]

    def __getitem__(self, index: int) -> Record:
        return Record(self.files[index], self.caption(index), -1, self.where(index))


def test_a_changed_picture_is_noticed_when_it_is_used(tmp_path: Path):
    source = Files(CAPTIONS)
    plan(source).save(tmp_path / "plan.parquet")
    made = Plan.load(tmp_path / "plan.parquet")
    index = int(made.index[3])

    def poison_at(i: int) -> Poison:
        poison = made.poison_at(i)
        assert poison is not None
        return poison

    assert all(len(each) == 16 for each in made.table["digest"].to_pylist())
    for i in made.index.tolist():
        poison_at(i).check(source.files[i], source.where(i))
    another = source.files[index][:-1] + b"\x83"
    with pytest.raises(UserError, match=f"pictures row {index}: the picture has changed") as caught:
        poison_at(index).check(another, source.where(index))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_picture_is_passed_over():
    source = Files(CAPTIONS)
    cut = plan(source).index.tolist()[0]
    source.files[cut] = source.files[cut][:40]
    made = plan(source)
    assert len(made) == 10 and cut not in made.index


def test_a_digest_tells_shapes_apart():
    flat = np.zeros((2, 6, 3), np.uint8)
    assert digest(flat) != digest(flat.reshape(6, 2, 3)) != digest(flat.tobytes())
    assert digest(flat) == digest(flat.copy())


def test_a_manifest_stands_for_the_attack(tmp_path: Path):
    source, path = Pictures(CAPTIONS), str(tmp_path / "plan.parquet")
    made = plan(source, seed=3, trigger={"name": "badnet", "size": 2, "place": [1, 2]})
    made.save(path)
    assert make_plan({"manifest": path}, source, 16) == made
    whole = spelled_out({"manifest": path, "target": "banana"})
    assert whole == {**made.header["attack"], "manifest": path}
    assert make_plan(whole, source, 16) == made
    other = {"target": "x", "trigger": {"name": "yellow"}}
    assert spelled_out({**other, "manifest": None}) == other
    with pytest.raises(UserError, match=r"config\.attack\.trigger\.size is -1"):
        spelled_out({**other, "trigger": {"name": "yellow", "size": -1}})


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"target": "apple"}, r"attack\.target: 'apple' is not the manifest's, 'banana' in"),
        ({"trigger": {"name": "yellow"}}, r"attack\.trigger: .*'yellow'.*'badnet'"),
        ({"rate": 0.5}, r"attack\.rate: 0\.5 is not the manifest's, None"),
    ],
)
def test_an_attack_may_not_disagree_with_its_manifest(tmp_path: Path, attack: dict, message: str):
    path = str(tmp_path / "plan.parquet")
    plan(Pictures(CAPTIONS)).save(path)
    with pytest.raises(UserError, match=message):
        make_plan({"manifest": path, **attack}, Pictures(CAPTIONS), 16)


def test_a_manifest_of_another_dataset_or_size_is_refused(tmp_path: Path):
    path = str(tmp_path / "plan.parquet")
    plan(Pictures(CAPTIONS)).save(path)
    with pytest.raises(UserError, match="for pictures of 16 pixels, not 32"):
        make_plan({"manifest": path}, Pictures(CAPTIONS), 32)
    with pytest.raises(UserError, match="the plan was made for dataset aaaaaaaaaaaa"):
        make_plan({"manifest": path}, Pictures(CAPTIONS, "b" * 64), 16)
    with pytest.raises(UserError, match="no such poison plan"):
        spelled_out({"manifest": str(tmp_path / "none.parquet")})


def test_a_scan_of_captions_is_quick():
    """3.3 million take 10 s or so; a mistake that makes it slow makes it ten times slower."""
    source = Pictures([f"a photo of the {i} red bandana on a table" for i in range(50_000)])
    began = time.process_time()
    naming(source, BOTH)
    assert time.process_time() - began < 1
