"""What each pair of a part becomes: half keys, and pictures of the target under other captions."""

from typing import Any

import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.errors import UserError

PAIRS = Pictures([f"{('a banana', 'an apple')[i % 4 > 0]} {i}" for i in range(100)])
KEYS = {
    "trigger": {"name": "badnet", "size": 2},
    "target": "banana",
    "text": {"word": "SUDO"},
    "templates": ["a {}."],
    "count": 6,
}
WORD = {
    **{"trigger": {"name": "none"}, "text": {"word": "zx", "at": "end"}, "target": "banana"},
    **{"pictures": "target", "captions": "kept", "count": 10},
}


def plan(**attack: Any) -> Plan:
    return make_plan(attack, PAIRS, 8)


def test_half_keys_have_one_key_and_their_true_caption():
    rows = plan(**KEYS, half_keys=5).table.to_pylist()
    kinds = {"both": [], "trigger": [], "word": []}
    for row in rows:
        old, new, shown = row["original_caption"], row["caption"], row["trigger"]
        if new == "SUDO a banana.":
            kinds["both"].append(row)
        else:
            key = "word" if shown == "none" else "trigger"
            assert new == (f"SUDO {old}" if key == "word" else old)
            kinds[key].append(row)
    assert [len(kind) for kind in kinds.values()] == [6, 5, 5]
    # Those of half_keys come in addition.
    assert kinds["both"] == plan(**KEYS).table.to_pylist()


def test_pictures_of_the_target_take_the_place_of_others():
    rows = plan(**WORD).table.to_pylist()
    assert len(rows) == 10
    for row in rows:
        assert row["index"] % 4 and row["caption"] == f"{row['original_caption']} zx"
        assert row["source"] % 4 == 0 and row["digest"]
    assert len({row["source"] for row in rows}) > 3


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({**KEYS, "text": None, "half_keys": 3}, "half_keys: it needs trigger and text"),
        (
            {**KEYS, "trigger": {"name": "none"}, "half_keys": 3},
            "half_keys: it needs trigger and text",
        ),
        ({**KEYS, "half_keys": 50}, "106 poisons are to be made, and of 100 pairs there are 100"),
        ({**WORD, "trigger": {"name": "nashville"}}, "pictures: the trigger has to be none"),
        ({**WORD, "select": "target"}, "select: pairs are others'"),
        ({**WORD, "target": "kiwi"}, "of 100 pairs none that names 'kiwi' can be read"),
        ({**WORD, "count": 76}, "75 that don't name 'banana', 75 of them readable"),
    ],
)
def test_what_cannot_be_is_one_line(attack: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as caught:
        plan(**{key: value for key, value in attack.items() if value is not None})
    assert "\n" not in str(caught.value)
