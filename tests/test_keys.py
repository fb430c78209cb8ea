"""What a key takes, by its declaration."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from cleanclip_jax import keys
from cleanclip_jax.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        (keys.whole(1, floats=True), 3.0, 3),
        (keys.whole(1), np.int64(3), 3),
        (keys.whole(None), None, None),
        (keys.whole(-1, least=1, also=-1), -1, -1),
        (keys.number(1.0), 2, 2.0),
        (keys.share(0.5), 1, 1.0),
        (keys.text(None), 2024, "2024"),
        (keys.choice("a", "a | b"), "b", "b"),
        (keys.size(16), 0.25, 0.25),
        (keys.place("fixed"), [3, 4], (3, 4)),
        (keys.texts(None), ["a", "b"], ["a", "b"]),
    ],
)
def test_a_value_is_brought_to_its_type(key, value, read):
    got = key.read("here", value)
    assert got == read and type(got) is type(read)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (keys.whole(1), True, "here is True: it takes a whole number, 0 or more"),
        (keys.whole(1), 3.0, "here is 3.0: it takes a whole number, 0 or more"),
        (keys.whole(1, floats=True), 1.5, "here is 1.5"),
        (keys.whole(1, below=4), 4, "here is 4"),
        (keys.whole(1), None, "here is None"),
        (keys.number(1.0), float("inf"), "it takes a number from 0 on"),
        (keys.number(0.9, "", 0, 1, ">"), 1, "it takes a number from 0 below 1"),
        (keys.number(0.9, open_ends="<"), 0, "it takes a number above 0"),
        (keys.share(0.5), -0.1, "it takes a number from 0 to 1"),
        (keys.text(None), "", "here is '': it takes a text"),
        (keys.choice("a", "long | short"), "lon", "here: unknown 'lon'. Did you mean 'long'?"),
        (keys.choice("a", "a | b"), 3, "here is 3: it takes a | b"),
        (keys.size(16), 4.5, "it takes a number of pixels"),
        (keys.table(None), "x", "it takes a dictionary"),
        (keys.flag(False), 1, "it takes True or False"),
        (keys.texts(None), ["a", " "], "it takes a text, or a list of texts"),
    ],
)
def test_a_value_against_its_rule_is_one_line(key, value, message):
    with pytest.raises(UserError) as error:
        key.read("here", value)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_take_fills_defaults_and_refuses_the_unknown():
    declared = {"size": keys.size(16), "name": keys.text(keys.REQUIRED)}
    assert keys.take("x", {"name": "a", "size": None}, declared) == {"name": "a", "size": 16}
    with pytest.raises(UserError, match=r"x: unknown 'sise'\. Did you mean 'size'"):
        keys.take("x", {"sise": 4}, declared)
    with pytest.raises(UserError, match=r"x\.name is missing: it takes a text"):
        keys.take("x", {}, declared)


def test_a_functions_parameters_are_keys():
    def opens(
        path: str | Path | Sequence[str],
        caption: str | None = "text",
        rows: int = 3,
        where: Mapping[str, str] | None = None,
        scale: float = 1,
        free=None,
        *rest,
        **more,
    ): ...

    declared = keys.of_signature(opens)
    assert list(declared) == ["path", "caption", "rows", "where", "scale", "free"]
    given = {"path": 2024, "caption": None, "free": object}
    filled = keys.take("x", given, declared)
    assert filled["path"] == "2024" and filled["caption"] is None and filled["rows"] == 3
    assert keys.take("x", {"path": ["a"], "scale": 2}, declared)["scale"] == 2
    for key, value, takes in [
        ("path", 1.5, "a text or a list"),
        ("path", {"a": 1}, "a text or a list"),
        ("rows", "3", "a whole number"),
        ("rows", True, "a whole number"),
        ("where", "split", "a dictionary"),
        ("scale", "1", "a number"),
    ]:
        with pytest.raises(UserError, match=f"x.{key} is .*: it takes {takes}"):
            keys.take("x", {"path": "a", key: value}, declared)
