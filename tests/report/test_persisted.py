"""The table and the part of the page about whether a backdoor stays away."""

import json

import pytest
from helpers.persist_rows import ROWS
from ml_collections import ConfigDict

from cleanclip_jax.report.persisted import as_text, persisted, shown_of, table_rows
from cleanclip_jax.report.runs import Run
from cleanclip_jax.workdir import Workdir

KNOWN = {"settings": {}, "command": "cleanclip persist", "models": {}, "rows": ROWS}


def test_each_figure_stands_beside_the_never_poisoned_models():
    lines = {(line[0], line[1]): line[2:] for line in table_rows(ROWS)}
    assert lines["—", "ASR before"] == ["2.0", "1.0", "+1.0"]
    # Trapezoids: (0.02 + 0.6) / 4 + (0.6 + 1) / 4.
    assert lines["path", "mean ASR"][:2] == ["55.5", "25.2"]
    assert lines["path", "wakes at alpha"][:2] == ["0.50", "1.00"]
    assert lines["path", "least CA"][:2] == ["50.0", "30.0"]
    assert lines["rebound, 0.001", "ASR after"] == ["30.0", "2.0", "+28.0"]
    assert lines["rebound, 0.001", "rebound"] == ["28.0", "1.0", "+27.0"]
    assert lines["reactivation", "ASR, woken, trigger"][0].startswith("85.0 [")
    # 90 - 50 and 80 - 50: the never poisoned model's is more than without the trigger.
    assert lines["reactivation", "reactivated"][0] == "+35.0"
    assert lines["presence", "BEC"] == ["0.25", "0.00", "+0.25"]
    assert "| rebound, 0.001 | ASR after | 30.0 | 2.0 | +28.0 |" in as_text(KNOWN)


def test_without_a_floor_it_says_what_is_not_told():
    alone = [row for row in ROWS if row["model"] != "floor"]
    blocks, png = shown_of({**KNOWN, "rows": alone})
    assert png is not None and any("--floor" in b for b in blocks if isinstance(b, str))
    assert shown_of({**KNOWN, "rows": []}) == (["Nothing is measured yet."], None)


def test_the_report_shows_it_of_the_runs_that_have_it(tmp_path):
    for name in ("with", "without"):
        (tmp_path / name / "persist").mkdir(parents=True)
    (tmp_path / "with/persist/persist.json").write_text(json.dumps(KNOWN))
    names = ("with", "without")
    runs = {name: Run(Workdir(tmp_path / name), ConfigDict(), {}) for name in names}
    blocks, files = persisted(runs)
    assert blocks[0] == "with: cleanclip persist" and list(files) == ["persist.png"]


@pytest.mark.parametrize("part", ["asr.badnet", "asr.wanet"])
def test_parts_have_lines_of_their_own(part):
    rows = [
        {**row, "figures": {part if k == "asr" else k: v for k, v in row["figures"].items()}}
        for row in ROWS
    ]
    assert any(part.removeprefix("asr.") in line[0] + line[1] for line in table_rows(rows))
