"""A sweep's runs together: lines, means, and the best CA at a limit of ASR."""

from cleanclip_jax.report.sweeps import best, best_cells, cells, courses, curve, short_names

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
    found = curve(GRID, ROWS)
    assert list(found) == ["in_modal 0", "in_modal 1"]
    assert [point.label for point in found["in_modal 0"]] == ["1e-4", "1e-3"]
    assert found["in_modal 0"][0].ca == (0.60 + 0.62) / 2
    assert found["in_modal 1"][1].asr == 0.05  # of the one seed that is there


def test_the_best_is_chosen_for_each_seed():
    found = {(each["line"], each["limit"]): each for each in best(GRID, ROWS)}
    at_one = found["in_modal 0", 0.01]
    assert at_one["ca"].n == 1 and at_one["ca"].mean == 0.50 and at_one["seeds"] == 2
    # The interval of a single run's pictures is not one over two seeds.
    assert at_one["ca"].interval is None
    at_five = found["in_modal 0", 0.05]
    assert at_five["chosen"] == {"0": "learning_rate 1e-3", "1": "learning_rate 1e-4"}
    assert at_five["ca"].mean == (0.50 + 0.62) / 2
    # A step on the way counts where it was measured; a limit is reached by what equals it.
    cleaned = found["in_modal 1", 0.05]
    assert cleaned["ca"].mean == 0.58
    assert cleaned["chosen"] == {"0": "learning_rate 1e-3, step 10"}
    columns, rows = best_cells(best(GRID, ROWS))
    assert columns == ["line", "ASR ≤ 1 %", "ASR ≤ 5 %", "ASR ≤ 10 %"]
    assert rows[0][1] == "50.0 (1 of 2 seeds)" and rows[1][1] == "none"


def test_the_way_is_a_line_of_steps():
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
    (points,) = courses(GRID, both).values()
    assert [(point.label, point.ca, point.asr) for point in points] == [
        ("1", 0.1, 0.5),
        ("3", 0.4, 0.6),
    ]


def test_means_and_failed_runs_in_the_table():
    columns, rows = cells(GRID, ROWS)
    assert columns == ["in_modal", "learning_rate", "runs", "ca", "asr"]
    assert rows[0][:3] == ["0", "1e-4", "2"] and rows[0][3].startswith("61.0 [")
    assert rows[3][:4] == ["1", "1e-3", "1 of 2", "55.0"]


def test_a_sweep_over_seeds_alone():
    grid = {"seed": ["0", "1"]}
    rows = [{"seed": s, "ca": 0.5, "asr": 0.01} for s in "01"]
    assert list(curve(grid, rows)) == ["runs"]
    assert best(grid, rows)[0]["chosen"] == {"0": "as configured", "1": "as configured"}
    assert best({RATE: ["1"]}, [{RATE: "1", "ca": 0.5}]) == []  # nothing was attacked


def test_keys_that_end_alike_keep_their_names():
    assert short_names(["a.x", "b.x", "c.y"]) == {"a.x": "a.x", "b.x": "b.x", "c.y": "y"}
