import json
import os
from pathlib import Path

import pytest

from cleanclip_jax import cli
from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.jobs.prepare import cores


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))


def test_a_config_s_pairs_are_prepared(capsys, tmp_path: Path):
    output = tmp_path / "out"
    argv = ["prepare", "--config=configs/demo.py", "--config.data.train.split=test"]
    argv += [f"--output={output}", "--short_side=4", "--shards=2", "--workers=1"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "prepared: 400 pairs in 2 shards" in shown and "left out: 0 of 400 rows" in shown
    assert f"{{'kind': 'arrayrecord', 'path': '{output}'}}" in shown
    made = open_arrayrecord(output)
    assert len(made) == 400 and made[0].image[:2] == b"\xff\xd8"
    assert json.loads((output / "dataset.json").read_text())["plan"]["quality"] == 95


def test_the_number_of_workers_is_found_where_the_system_tells_no_affinity(
    monkeypatch: pytest.MonkeyPatch,
):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == os.cpu_count()


DIGITS = "--source={'kind': 'digits'}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --source or --config"),
        ([DIGITS, "--config=configs/demo.py"], "give --source or --config"),
        (["--source=pairs.csv"], "--source=pairs.csv: write {'kind': 'csv'"),
        (["--source={1: 2}"], "--source={1: 2}: write {'kind': 'csv'"),
        (["--source={'kind': 'digit'}"], "Did you mean 'digits'"),
        ([DIGITS, "--config.data.train.split=test"], "needs --config"),
        ([DIGITS, "--shards=9999"], "give 1 to 1397"),
        ([DIGITS, "--quality=90"], "give short_side too"),
        ([DIGITS, "--workers=0"], "--workers: give 1 or more"),
        ([DIGITS, "--max_bad_share=2"], "give a share, 0 to 1"),
        ([DIGITS, "--short-side=256"], "Did you mean '--short_side'"),
        ([DIGITS, "--beam.project=mine"], "give --runner too"),
        ([DIGITS, "--runner=DirectRunner", "--workers=2"], "which brings workers"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, capsys, tmp_path: Path):
    assert cli.main(["prepare", f"--output={tmp_path}/out", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("cleanclip: ") and line.count("\n") == 1 and message in line
    assert not (tmp_path / "out").exists()
