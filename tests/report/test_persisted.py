"""The table and the picture of persist, from rows whose figures are known."""

import json
import shutil
from typing import Any

import pytest

from cleanclip_jax.report.persist_rows import SHAPE
from cleanclip_jax.report.persisted import as_text, blocks_of, persisted, table_rows
from cleanclip_jax.report.runs import read_run
from cleanclip_jax.shapes import parse_json


def row(protocol: str, model: str, asr: float, **more: Any) -> dict[str, Any]:
    figures = {"asr": {"value": asr}, "ca": {"value": 0.8}}
    return {"protocol": protocol, "model": model, "figures": figures, **more}


def woken(model: str, at: str, asr: float, seed: int) -> dict[str, Any]:
    figures = {"asr": {"value": asr}, "before": {"value": 0.01}}
    facts = {"protocol": "reactivation", "model": model, "at": at, "seed": seed}
    return {**facts, "figures": figures}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rows = [row("before", m, asr) for m, asr in (("cleaned", 0.1), ("poisoned", 0.9))]
    rows.append(row("before", "floor", 0.0))
    for at, cleaned, floor in ((0.0, 0.1, 0.0), (0.5, 0.7, 0.0), (1.0, 0.9, 0.9)):
        rows += [row("path", "cleaned", cleaned, at=at), row("path", "floor", floor, at=at)]
    for seed, top in ((0, 0.6), (1, 0.8)):
        for epoch, asr in ((1, top), (2, 0.2)):
            rows.append(row("rebound", "cleaned", asr, at=epoch, rate=1e-3, seed=seed))
            rows.append(row("rebound", "floor", 0.0, at=epoch, rate=1e-3, seed=seed))
        rows += [woken("cleaned", "trigger", 0.9, seed), woken("cleaned", "no trigger", 0.2, seed)]
        rows += [woken("floor", "trigger", 0.3, seed), woken("floor", "no trigger", 0.2, seed)]
    for model, value in (("cleaned", 0.4), ("floor", 0.0)):
        figures = {"bec": {"value": value}}
        rows.append({"protocol": "presence", "model": model, "at": "bec", "figures": figures})
    return rows


def cells(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    return {(line[0], line[1]): line[2:] for line in table_rows(rows)}


def test_each_figure_stands_beside_the_never_poisoned_models(rows):
    table = cells(rows)
    assert table["—", "ASR before"] == ["10.0", "0.0", "+10.0"]
    # (0.1 + 0.7) / 4 + (0.7 + 0.9) / 4, and 0.9 / 4 for the floor.
    assert table["path", "mean ASR"] == ["60.0", "22.5", "+37.5"]
    assert table["path", "wakes at alpha"] == ["0.50", "1.00", "-0.50"]
    name = "rebound, 0.001"
    assert table[name, "rebound"][0].startswith("60.0 [")  # the mean of 0.5 and 0.7
    assert table[name, "rebound"][1:] == ["0.0 [0.0, 0.0]", "+60.0"]
    assert table[name, "ASR after"][0].startswith("20.0 [")
    # From 0.1 before over 0.6 to 0.2: (0.35 + 0.4) / 2; and (0.45 + 0.5) / 2 of the other seed.
    assert table[name, "area"][0].startswith("42.5 [")
    assert table["reactivation", "reactivated"] == ["+60.0", "—", "—"]
    assert table["presence", "BEC"] == ["0.40", "0.00", "+0.40"]


def test_without_a_floor_its_cells_are_empty_and_the_page_says_so(rows):
    alone = [each for each in rows if each["model"] != "floor"]
    table = cells(alone)
    assert table["path", "mean ASR"] == ["60.0", "—", "—"]
    assert table["reactivation", "reactivated"] == ["+70.0", "—", "—"]
    blocks, _ = blocks_of({"rows": alone})
    assert any("No never poisoned model" in str(block) for block in blocks)
    assert not any(
        "No never poisoned model" in str(block) for block in blocks_of({"rows": rows})[0]
    )


def test_each_part_of_an_attack_has_its_lines(rows):
    for each in rows:
        figures = each["figures"]
        for key in ("asr", "before", "bec"):
            if key in figures:
                figures |= {f"{key}.badnet": figures.pop(key), f"{key}.wanet": {"value": 0.5}}
    table = cells(rows)
    assert table["path.badnet", "mean ASR"][0] == "60.0"
    assert table["path.wanet", "mean ASR"][0] == "50.0"
    assert table["presence.badnet", "BEC"][0] == "0.40"
    assert ("—", "ASR before (wanet)") in table
    assert blocks_of({"rows": rows})[1] is not None


def test_what_is_not_measured_has_no_line(rows):
    few = [each for each in rows if each["protocol"] == "before"]
    assert [line[1] for line in table_rows(few)] == ["ASR before", "CA before"]
    assert blocks_of({"rows": few})[1] is None
    assert blocks_of({"rows": []}) == (["Nothing is measured yet."], None)
    assert as_text({"rows": few}).count("\n") == 3


def test_a_run_of_which_it_was_tried_has_it_on_its_page(rows, tmp_path):
    from pathlib import Path

    golden = Path(__file__).parents[1] / "golden/workdirs/measured"
    run = shutil.copytree(golden, tmp_path / "run")
    assert persisted({"run": read_run(run)}) == ([], {})
    content = {"settings": {}, "command": "cleanclip persist", "models": {}, "rows": rows}
    (run / "persist").mkdir()
    (run / "persist/persist.json").write_text(json.dumps(content))
    blocks, files = persisted({"run": read_run(run)})
    assert blocks[0] == "run: cleanclip persist"
    assert files["persist.png"].startswith(b"\x89PNG")
    parse_json("persist.json", json.dumps(content), SHAPE)
