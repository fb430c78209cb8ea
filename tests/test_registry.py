"""Tables of what a config names; how extensions are loaded is in test_extend.py."""

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.registry import Registry


def test_a_row_is_imported_when_it_is_first_used():
    table: Registry = Registry("config.x", {"join": "os.path:join", "none": "no_module:none"})
    assert list(table) == ["join", "none"] and len(table) == 2 and "join" in table
    assert table.find("join")("a", "b") == "a/b"
    with pytest.raises(ModuleNotFoundError):
        table.find("none")


@pytest.mark.parametrize("name", ["jion", None, 3, ["join"]])
def test_a_name_that_is_not_there_says_import(name):
    with pytest.raises(UserError, match=r"config\.x: unknown .*join.*--import=FILE\.py"):
        Registry("config.x", {"join": 1}).find(name)


def test_a_name_is_taken_once():
    table: Registry = Registry("config.x", {"a": 1})
    table.register("b")(len)
    assert table["b"] is len
    with pytest.raises(UserError, match="'b' is taken"):
        table.add("b", 2)
