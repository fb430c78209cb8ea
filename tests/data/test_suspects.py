"""Who is suspected: a manifest's poisons, or the highest of a score file; the rest is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pictures import Pictures

from cleanclip_jax.attacks.plan import make_plan
from cleanclip_jax.data.scores import write_scores
from cleanclip_jax.data.subset import Subset, write_ids
from cleanclip_jax.data.suspects import find_suspects
from cleanclip_jax.errors import UserError

PAIRS = Pictures([f"caption {index}" for index in range(100)], "a" * 64)
PART = Subset(PAIRS, np.arange(0, 100, 2))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A manifest, and scores of all records but two, of which the last ones are the highest."""
    trigger = {"name": "badnet", "size": 4, "noise": "fixed", "place": "fixed"}
    attack = {"trigger": trigger, "target": "banana", "count": 20}
    make_plan(attack, PAIRS, 16).save(tmp_path / "poison.parquet")
    scores = np.linspace(-1, 1, 100)
    scores[[3, 99]] = np.nan
    write_scores(tmp_path / "scores.parquet", np.arange(100), scores, PAIRS.fingerprint)
    other = tmp_path / "other.parquet"
    write_scores(other, np.arange(100), scores, "b" * 64)
    return {name: tmp_path / f"{name}.parquet" for name in ("poison", "scores", "other")}


def test_a_manifests_poisons_are_found_by_id(files: dict[str, Path]):
    from cleanclip_jax.attacks.plan import Plan

    poisons = set(Plan.load(files["poison"]).index)
    for source in (PAIRS, PART):
        marked = find_suspects({"manifest": str(files["poison"])}, source)
        assert set(source.ids()[marked]) == poisons & set(source.ids())


def test_the_highest_scores_are_suspected_and_no_score_is_not(files: dict[str, Path]):
    given = {"scores": str(files["scores"]), "share": 0.05}
    marked = find_suspects(given, PAIRS)
    assert np.flatnonzero(marked).tolist() == [95, 96, 97, 98], (
        "a share of the scores that there are"
    )
    assert PART.ids()[find_suspects({**given, "share": 0.1}, PART)].tolist() == [90, 92, 94, 96, 98]


def test_a_copy_takes_the_files_place(files: dict[str, Path], tmp_path: Path):
    write_ids(tmp_path / "copy.parquet", np.array([4, 7, 8]), PAIRS.fingerprint)
    given = {"scores": str(tmp_path / "gone.parquet"), "share": 0.05}
    marked = find_suspects(given, PART, tmp_path / "copy.parquet")
    assert PART.ids()[marked].tolist() == [4, 8]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "takes a manifest, or scores with a share"),
        ({"manifest": "poison", "scores": "scores"}, "takes a manifest, or scores with a share"),
        ({"manifest": "poison", "share": 0.1}, "a share goes with scores"),
        ({"scores": "scores"}, "a share goes with scores"),
        ({"scores": "scores", "share": 1.0}, "share is 1.0: it takes a number above 0 below 1"),
        ({"scores": "scores", "share": 0.001}, "no pair of config.data.train is suspected"),
        ({"scores": "other", "share": 0.1}, "are of the dataset bbbb"),
        ({"manifest": "scores"}, "no poison plan"),
        ({"manifest": "nowhere"}, "no such poison plan"),
        ({"scores": "nowhere", "share": 0.1}, "check the path"),
        ({"ids": "scores"}, "unknown 'ids'"),
    ],
)
def test_what_says_nobody_or_too_much_is_refused(
    files: dict[str, Path], given: dict[str, Any], message: str
):
    given = {
        key: str(files.get(value, value)) if key != "share" else value
        for key, value in given.items()
    }
    with pytest.raises(UserError, match=message) as error:
        find_suspects(given, PAIRS)
    assert "\n" not in str(error.value)
