import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord


@pytest.fixture
def mix(write_csv: Callable) -> Callable[..., Source]:
    """Mixes 'few', of 4 pairs, and 'many', of 10 with one picture missing, by weights."""
    few = {"kind": "csv", "path": str(write_csv(4, "few.csv")), "class_name": "animal"}
    many = {
        "kind": "csv",
        "path": str(write_csv(10, "many.csv", missing=[7])),
        "class_name": "animal",
    }

    def mixed(few_weight: float = 1, many_weight: float = 1, **changes: Any) -> Source:
        sources = {
            "many": many | {"weight": many_weight} | changes,
            "few": few | {"weight": few_weight},
        }
        return open_source({"kind": "mixture", "sources": sources})

    return mixed


def counts(source: Source) -> Counter:
    return Counter(source.where(i) for i in range(len(source)))


def test_pairs_of_all_sources_come_one_after_the_other(mix: Callable):
    source = mix()
    assert len(source) == 14 and source.class_names == ("cat", "dog")
    assert source.where(0) == "few: few.csv row 1" and source.where(13) == "many: many.csv row 10"
    record = source[5]
    assert record.where == "many: many.csv row 2" and record.caption == source.caption(5)
    assert record.label == 1 and source.labels().tolist() == [0, 1] * 7
    with pytest.raises(BadRecord, match=r"^many: many.csv row 8: image"):
        source[11]


def test_a_weight_is_how_many_times_a_pair_comes(mix: Callable):
    source = mix(few_weight=3, many_weight=0.5)
    times = counts(source)
    assert len(source) == 3 * 4 + 5
    assert sorted(times.values()) == [1] * 5 + [3] * 4
    assert len(source.labels()) == 17
    assert all(source[i].label == source.labels()[i] for i in range(12))
    times = counts(mix(few_weight=2.5, many_weight=0))
    assert sorted(times.values()) == [2, 2, 3, 3]


def test_the_share_that_a_fraction_picks_is_fixed_and_spread(write_csv: Callable):
    config = {"kind": "csv", "path": str(write_csv(2)), "where": {}}
    path = write_csv(40, "more.csv")
    sources = {"a": config, "b": {"kind": "csv", "path": str(path), "weight": 0.5}}
    first, again = (open_source({"kind": "mixture", "sources": sources}) for _ in range(2))
    assert counts(first) == counts(again) and first.fingerprint == again.fingerprint
    rows = [int(first.where(i).split()[-1]) for i in range(2, 22)]
    assert rows == sorted(set(rows)) and 14 < np.mean(rows) < 27


def test_the_order_of_the_config_does_not_matter(mix: Callable, write_csv: Callable):
    """A config's keys are sorted when it is written to the workdir."""
    one = {"kind": "csv", "path": str(write_csv(3, "one.csv"))}
    two = {"kind": "csv", "path": str(write_csv(5, "two.csv"))}
    sources = [
        open_source({"kind": "mixture", "sources": made})
        for made in ({"one": one, "two": two}, {"two": two, "one": one})
    ]
    assert sources[0].fingerprint == sources[1].fingerprint
    assert [sources[0].where(i) for i in range(8)] == [sources[1].where(i) for i in range(8)]


def test_the_fingerprint_follows_sources_and_weights(mix: Callable):
    seen = {mix().fingerprint, mix(2).fingerprint, mix(1, 2).fingerprint, mix(rows=9).fingerprint}
    assert len(seen) == 4 and mix().fingerprint in seen


def test_a_mixture_pickles_to_the_same(mix: Callable):
    source = mix(1.5, 0.3)
    pickled = pickle.dumps(source)
    copy = pickle.loads(pickled)
    assert len(pickled) < 2000 and copy.fingerprint == source.fingerprint
    assert counts(copy) == counts(source) and copy[1].image == source[1].image


def test_sources_without_classes_mix_with_those_that_have_them(mix: Callable):
    source = mix(class_name=None)
    assert source.class_names == ("cat", "dog")
    assert source.labels().tolist() == [0, 1, 0, 1] + [-1] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_name": "split"}, "classes of few and many differ: class 0 is 'cat' and 'test'"),
        ({"few_weight": -1}, "few: weight is -1: it takes a number from 0 to 1000"),
        ({"few_weight": 0, "many_weight": 0.01}, "no pair is left"),
        ({"captoin": "x"}, "mixture: many: .*unknown 'captoin'.*Did you mean 'caption'"),
        ({"path": "nowhere.csv"}, "mixture: many: nowhere.csv: No such file"),
    ],
)
def test_a_mistake_is_one_line(mix: Callable, options: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        mix(**options)
    assert "\n" not in str(error.value)
