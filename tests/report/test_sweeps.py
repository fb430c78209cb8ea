"""A sweep's runs together: lines, means, and the best CA at a limit of ASR."""

import json
from pathlib import Path

from cleanclip_jax.report.sweeps import Sweep, best_cells, markdown, short_names, write_sweep

GOLDEN = Path(__file__).parents[1] / "golden/workdirs/sweep"  # made before pandas

RATE, TERM = "optimizer.learning_rate", "objective.in_modal"
GRID = {"seed": ["0", "1"], TERM: ["0", "1"], RATE: ["1e-4", "1e-3"]}


def row(seed, term, rate, ca, asr, **more):
    return {"seed": seed, TERM: term, RATE: rate, "ca": ca, "asr": asr, **more}


ROWS = [
    row("0", "0", "1e-4", 0.60, 0.90),
    row("1", "0", "1e-4", 0.62, 0.04),
    row("0", "0", "1e-3", 0.50, 0.008),
    row("1", "0", "1e-3", 0.40, 0.02),
    row("0", "1", "1e-4", 0.61, 0.80),
    row("1", "1", "1e-4", 0.61, 0.70),
    row("0", "1", "1e-3", 0.55, 0.05, course=[{"step": 10, "ca": 0.58, "asr": 0.03}]),
    {"seed": "1", TERM: "1", RATE: "1e-3", "error": "diverged"},
]


def test_a_line_runs_along_the_learning_rate():
    curve = Sweep(GRID, ROWS).curve()
    assert list(curve) == ["in_modal 0", "in_modal 1"]
    assert [point.label for point in curve["in_modal 0"]] == ["1e-4", "1e-3"]
    assert curve["in_modal 0"][0].ca == (0.60 + 0.62) / 2
    assert curve["in_modal 1"][1].asr == 0.05  # of the one seed that is there


def test_the_best_is_chosen_for_each_seed():
    best = {(each["line"], each["limit"]): each for each in Sweep(GRID, ROWS).best()}
    at_one = best["in_modal 0", 0.01]
    assert at_one["ca"].n == 1 and at_one["ca"].mean == 0.50 and at_one["seeds"] == 2
    # The interval of a single run's pictures is not one over two seeds.
    assert at_one["ca"].interval is None
    at_five = best["in_modal 0", 0.05]
    assert at_five["chosen"] == {"0": "learning_rate 1e-3", "1": "learning_rate 1e-4"}
    assert at_five["ca"].mean == (0.50 + 0.62) / 2
    # A step on the way counts where it was measured; a limit is reached by what equals it.
    cleaned = best["in_modal 1", 0.05]
    assert cleaned["ca"].mean == 0.58
    assert cleaned["chosen"] == {"0": "learning_rate 1e-3, step 10"}
    columns, rows = best_cells(Sweep(GRID, ROWS).best())
    assert columns == ["line", "ASR ≤ 1 %", "ASR ≤ 5 %", "ASR ≤ 10 %"]
    assert rows[0][1] == "50.0 (1 of 2 seeds)" and rows[1][1] == "none"


def test_checkpoints_on_the_way_are_points_named_by_their_steps():
    both = [
        row(
            "0",
            "1",
            "1e-3",
            0.5,
            0.1,
            course=[{"step": s, "ca": s / 10, "asr": 0.5} for s in (1, 3)],
        ),
        row("1", "1", "1e-3", 0.5, 0.1, course=[{"step": 3, "ca": 0.5, "asr": 0.7}]),
    ]
    (points,) = Sweep(GRID, both).courses().values()
    assert [(point.label, point.ca, point.asr) for point in points] == [
        ("1", 0.1, 0.5),
        ("3", 0.4, 0.6),
    ]


def test_means_and_failed_runs_in_the_table():
    columns, rows = Sweep(GRID, ROWS).cells()
    assert columns == ["in_modal", "learning_rate", "runs", "ca", "asr"]
    assert rows[0][:3] == ["0", "1e-4", "2"] and rows[0][3].startswith("61.0 [")
    assert rows[3][:4] == ["1", "1e-3", "1 of 2", "55.0"]


def test_values_stay_in_their_cells():
    grid = {RATE: ["a|b\x1b\n"]}
    text = markdown(Sweep(grid, [{RATE: "a|b\x1b\n", "ca": 0.5, "asr": 0.01}]))
    assert r"| a\|b\x1b\n | 1 | 50.0 | 1.0 |" in text.splitlines()
    assert "for each seed" not in text and "over the seeds" not in text


def test_a_sweep_over_seeds_alone():
    grid = {"seed": ["0", "1"]}
    rows = [{"seed": s, "ca": 0.5, "asr": 0.01} for s in "01"]
    assert list(Sweep(grid, rows).curve()) == ["runs"]
    assert Sweep(grid, rows).best()[0]["chosen"] == {"0": "as configured", "1": "as configured"}
    assert Sweep({RATE: ["1"]}, [{RATE: "1", "ca": 0.5}]).best() == []  # nothing was attacked


def test_keys_that_end_alike_keep_their_names():
    assert short_names(["a.x", "b.x", "c.y"]) == {"a.x": "a.x", "b.x": "b.x", "c.y": "y"}


def test_files_are_those_of_older_programs(tmp_path):
    """What an older sweep wrote is read, and written again to the byte."""
    content = json.loads((GOLDEN / "sweep.json").read_text())
    write_sweep(tmp_path, Sweep(content["over"], content["runs"]), content["command"])
    for name in ("sweep.json", "sweep.csv"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
    assert (tmp_path / "sweep.png").is_file() and not (tmp_path / "courses.png").exists()
