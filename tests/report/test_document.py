"""What was run, and the commands that run it again."""

import json
import shutil
from pathlib import Path

from cleanclip_jax.report.document import commands, what_was_run
from cleanclip_jax.report.page import Code, Table
from cleanclip_jax.report.runs import Gathered

GOLDEN = Path(__file__).parents[1] / "golden/workdirs/measured"


def workdir(folder: Path, time: float) -> Path:
    shutil.copytree(GOLDEN, folder)
    row = json.loads((folder / "starts.jsonl").read_text())
    row |= {"time": time, "command": f"cleanclip train --workdir={folder.name}"}
    (folder / "starts.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_commands_in_their_order_and_with_their_flags(make_entry, tmp_path):
    sweep, cleaned = tmp_path / "sweep", workdir(tmp_path / "cleaned", 2.0)
    settings = make_entry().runs[0].evaluation["evaluation"]
    floored = {**settings, "floor": "runs/a clean one", "cache": 1.0}
    clean = {**settings, "attack": None}
    swept = make_entry("swept", workdir(tmp_path / "swept", 3.0))
    gathered = Gathered(
        [
            make_entry("cleaned", cleaned, evaluation=floored),
            make_entry("poisoned", workdir(tmp_path / "poisoned", 1.0)),
            make_entry("c", workdir(tmp_path / "c", 4.0), evaluation=clean),
            type(swept)("swept", swept.runs, "line", sweep=sweep),
        ],
        commands={sweep: "cleanclip sweep"},
    )
    assert commands(gathered, "cleanclip report") == [
        *("cleanclip train --workdir=poisoned", "cleanclip train --workdir=cleaned"),
        *("cleanclip sweep", "cleanclip train --workdir=c"),
        f"cleanclip evaluate --workdir={cleaned} '--config.evaluation.floor=runs/a clean one'",
        f"cleanclip evaluate --workdir={tmp_path / 'poisoned'}",
        f"cleanclip evaluate --workdir={tmp_path / 'c'} --config.evaluation.attack=None",
        "cleanclip report",
    ]


def test_what_most_configs_hold_is_listed_once(make_entry):
    decays = dict(zip("abc", (1.0, 2.0, 2.0), strict=True))
    entries = [make_entry(k, config={"optimizer.weight_decay": v}) for k, v in decays.items()]
    entries.append(
        make_entry("d", config={"optimizer.weight_decay": 0.1, "seed": 7})
    )  # the default
    table, _, usual = what_was_run(Gathered(entries))
    assert isinstance(usual, Code) and isinstance(table, Table)
    assert usual.lines.count("optimizer.weight_decay = 2.0") == 1
    assert "train.steps = 40" in usual.lines
    assert [row[-1] for row in table.rows] == [
        *("optimizer.weight_decay = 1.0", "—", "—", "optimizer.weight_decay as by default"),
    ]
    assert table.rows[3][3:8] == ["16", "0.002", "7", "1 cpu", str(GOLDEN)]
    (_, _, usual) = what_was_run(Gathered(entries[:1]))
    assert isinstance(usual, Code) and "optimizer.weight_decay = 1.0" in usual.lines
