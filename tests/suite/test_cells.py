"""Digests: what decides a figure changes them, where things lie does not."""

from dataclasses import replace

import pytest

from cleanclip_jax.suite.cells import (
    command_of,
    config_of_cell,
    cost_of,
    digest_of,
    pairs_of,
)
from cleanclip_jax.suite.suites import open_suite


def with_keys(cell, *keys):
    return replace(cell, keys=(*cell.keys, *keys))


def test_every_cell_has_a_digest_of_its_own(suite):
    assert len({digest_of(cell) for cell in suite.cells}) == len(suite.cells)


def test_what_decides_the_figures_is_in_the_digest(cell):
    poisoned = cell("poisoned", attack="badnet", seed="0")
    digest = digest_of(poisoned)
    for key in ("seed=5", "attack.trigger.size=5", "train.steps=7", "evaluation.control=True"):
        assert digest_of(with_keys(poisoned, key)) != digest, key
    for key in ("train.log_every=3", "data.workers=1", "evaluation.cache=1", "train.keep=9"):
        assert digest_of(with_keys(poisoned, key)) == digest, key


def test_a_changed_start_changes_all_that_comes_of_it(suite, cell):
    cleaned = cell("cleaned", attack="badnet", seed="0", defence="mmcl", rate="0.001")
    other = replace(cleaned, start=with_keys(cleaned.start, "train.steps=7"))
    assert digest_of(other) != digest_of(cleaned)
    assert digest_of(suite.rebound(other)) != digest_of(suite.rebound(cleaned))
    scan = cell("detector", attack="badnet", seed="0", detector="slof")
    assert digest_of(replace(scan, start=other.start)) != digest_of(scan)
    assert digest_of(replace(scan, options=(("k", 9),))) != digest_of(scan)


def test_pairs_count_and_their_place_does_not(cell, tmp_path):
    """The same pictures from two files, and another picture."""
    poisoned = cell("poisoned", attack="badnet", seed="0")

    def digest(name: str, captions: str) -> str:
        (tmp_path / name).write_text(f"image,caption\n{captions}")
        return digest_of(with_keys(poisoned, f"data.train={source(name)}"))

    def source(name: str) -> dict:
        return {"kind": "csv", "path": str(tmp_path / name)}

    first = digest("a.csv", "a.png,a seven\n")
    assert first != digest("b.csv", "a.png,an eight\n")
    (tmp_path / "far").mkdir()
    assert first == digest("far/a.csv", "a.png,a seven\n")


def test_pairs_that_are_not_there_yet_have_a_digest_too(cell):
    poisoned = cell("poisoned", attack="badnet", seed="0")
    gone = with_keys(poisoned, "data.train={'kind': 'csv', 'path': 'nowhere.csv'}")
    assert digest_of(gone) != digest_of(poisoned)
    assert pairs_of(config_of_cell(gone, {}).data.train) is None


def test_the_command_trains_the_cells_run(cell, tmp_path):
    cleaned = cell("cleaned", attack="badnet", seed="0", defence="mmcl", rate="0.001")
    command = command_of(cleaned, tmp_path / "run", {"start": tmp_path / "poisoned"})
    assert command.startswith("cleanclip train --config=configs/demo.py:mmcl --workdir=")
    assert f"--config.start={tmp_path}/poisoned" in command
    assert "--config.optimizer.learning_rate=0.001" in command


def _flops_per_pair(cost: dict[str, float | None]) -> float:
    return (cost["flops"] or 0) / (cost["pairs"] or 1)


def test_costs_follow_from_the_config(suite, cell):
    at = {"attack": "badnet", "seed": "0"}
    mmcl = cost_of(suite, cell("cleaned", **at, defence="mmcl", rate="0.001"))
    poisoned = cost_of(suite, cell("poisoned", **at))
    assert (mmcl["steps"], mmcl["pairs"]) == (400, 400 * 64)
    assert _flops_per_pair(poisoned) == _flops_per_pair(mmcl) > 1e6
    assert cost_of(suite, cell("detector", **at, detector="slof"))["pairs"] is None


@pytest.mark.slow
def test_a_set_that_is_not_here_is_planned_by_its_counts():
    suite = open_suite("cc3m", {})
    costs = {
        cell.kind: cost_of(suite, cell)
        for cell in suite.cells
        if cell.places["model"] == "RN50" and cell.kind != "detector"
    }
    assert costs["poisoned"]["pairs"] == 64 * (3_000_000 // 128) * 128
    assert (costs["cleaned"]["flops"] or 0) > 1e15
