"""kill -9 in two cells of a benchmark: the same command goes on, to the figures of a whole run."""

import json
import time
from pathlib import Path

import pytest
from helpers.fault_runs import running
from helpers.small_suite import small_suite


def figures(folder: Path) -> dict[str, dict]:
    rows = json.loads((folder / "benchmark.json").read_text())["cells"]
    return {digest: row["figures"] for digest, row in rows.items()}


def lines(folder: Path, words: str) -> int:
    """How many steps a cell's run has written down."""
    files = folder.glob(f"cells/*{words}*/metrics.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in files)


@pytest.mark.faults
def test_two_cells_killed_in_the_middle_go_on(tmp_path: Path):
    suite = small_suite(tmp_path, steps=12)
    log = tmp_path / "log"

    def command(folder: Path) -> list[str]:
        only = "--only=attack=badnet,kind=poisoned,kind=cleaned"
        return ["benchmark", str(suite), f"--workdir={folder}", only]

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with running(command(whole), log) as process:
        assert process.wait(600) == 0, log.read_text()
    for words in ("never_poisoned", "rate_0.001"):
        with running(command(torn), log) as process:
            before, began = lines(torn, words), time.monotonic()
            while process.poll() is None and lines(torn, words) <= before:
                time.sleep(0.002)
                assert time.monotonic() - began < 300, log.read_text()[-3000:]
            assert process.poll() is None, f"{words} ended before it was killed"
            process.kill()
            process.wait()
    with running(command(torn), log) as process:
        assert process.wait(600) == 0, log.read_text()
    assert figures(torn) == figures(whole) and len(figures(whole)) == 3
