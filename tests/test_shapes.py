"""JSON is data once it has the shape that its reader relies on."""

import json

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.shapes import parse_json

SHAPE = {
    "name": str,
    "rate": float,
    "kind": {"a", "b"},
    "ends": ([float, float], None),
    "runs": [{"step": int, str: float | None}],
    "note?": str | None,
}
RIGHT = {"name": "x", "rate": 1, "kind": "a", "ends": [0, 1.5], "runs": [{"step": 3, "ca": None}]}


def test_what_has_the_shape_comes_back():
    for content in (RIGHT, RIGHT | {"ends": None, "note": "n", "more": [[]]}):
        assert parse_json("a", json.dumps(content), SHAPE) == content
    assert parse_json("a", b"\xef\xbb\xbf[1]", [int]) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it is a list, not an object"),
        (RIGHT | {"name": 3}, "name is a whole number, not text"),
        (RIGHT | {"rate": True}, "rate is true or false, not a number"),
        (RIGHT | {"rate": 2**63}, "rate is too large"),
        (RIGHT | {"kind": "c"}, "kind is 'c', not 'a', 'b'"),
        (RIGHT | {"kind": None}, "kind is null, not text"),
        (RIGHT | {"ends": [1]}, "ends holds 1 items, not 2"),
        (RIGHT | {"runs": [{"step": 1}, {"ca": 0.5}]}, "runs[1] lacks 'step'"),
        (RIGHT | {"runs": [{"step": 1, "ca": "x"}]}, "runs[0].ca is text, not a number or null"),
        (RIGHT | {"note": 1}, "note is a whole number, not text or null"),
        ({k: v for k, v in RIGHT.items() if k != "rate"}, "it lacks 'rate'"),
    ],
)
def test_what_has_not_is_named_in_one_line(content, message):
    with pytest.raises(UserError) as error:
        parse_json("DIR/a.json", json.dumps(content), SHAPE, "make it again")
    assert str(error.value) == f"DIR/a.json: {message}: make it again"
