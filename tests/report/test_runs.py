"""Which runs may share a table."""

import pytest

from cleanclip_jax.report.runs import measured_in_words, measured_on, short_paths

SHORT = {"name": "badnet", "size": 4}
LONG = {**SHORT, "noise": "fixed", "place": "fixed", "seed": 0, "overflow": "clip"}


@pytest.mark.parametrize("other", [SHORT, LONG, dict(reversed(LONG.items()))])
def test_a_trigger_with_and_without_its_defaults_is_one(make_entry, other):
    one, two = make_entry(trigger=LONG).runs[0], make_entry(trigger=other).runs[0]
    assert measured_on(one) == measured_on(two)
    assert "name badnet, size 4, noise fixed, place fixed, seed 0" in measured_in_words(two)


@pytest.mark.parametrize(
    "other", [None, {**SHORT, "size": 5}, {"name": "of my own"}, {**SHORT, "of an older": 1}]
)
def test_other_triggers_stand_apart(make_entry, other):
    one, two = make_entry(trigger=LONG).runs[0], make_entry(trigger=other).runs[0]
    assert measured_on(one) != measured_on(two) == measured_on(make_entry(trigger=other).runs[0])


def test_names_are_in_one_line(tmp_path):
    folders = [tmp_path / "a\x1b[31m\nb", tmp_path / "b"]
    assert list(short_paths(folders).values()) == [r"a\x1b[31m\nb", "b"]
