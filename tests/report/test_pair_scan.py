"""A scan's files, from a run that knows its poisons."""

import json
import shutil
from pathlib import Path

from cleanclip_jax.detect.opened import open_scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.report.pair_scan import scan_pairs
from cleanclip_jax.start.start import open_start

POISONED = Path(__file__).parents[1] / "golden/workdirs/poisoned"


def test_a_scan_writes_what_it_saw_and_what_to_drop(tmp_path):
    start = open_start(shutil.copytree(POISONED, tmp_path / "model"))
    settings = Settings(("kdist", "clip_low"))
    opened = open_scan(start, start.config, settings)
    scan_pairs(tmp_path / "scan", opened, settings, "clip_low", 0.02, top=7)
    results = json.loads((tmp_path / "scan/detect.json").read_text())
    scored = results["data"]["scored"]
    assert (results["by"], results["dropped"]) == ("clip_low", int(0.02 * scored))
    assert set(results["figures"]) == {"kdist", "clip_low"} and results["poisons"] > 0
    assert (tmp_path / "scan/top.csv").read_text().count("\n") == 8
    names = {path.name for path in (tmp_path / "scan").iterdir()}
    assert {"groups.csv", "drop.csv", "scores"} <= names
    assert not list((tmp_path / "scan").glob("parts/*"))  # of a scan that is not done yet
