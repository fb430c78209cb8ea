"""The sweep command: any keys, taken up again, means over seeds, each run's way."""

import csv
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from helpers.small_run import FLAGS, trained

from cleanclip_jax import cli
from cleanclip_jax.files import read_lines
from cleanclip_jax.jobs import sweep as sweeping
from cleanclip_jax.jobs.sweep import read_grid, run_name, split_values


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "poisoned"
    return trained(folder)


def sweep(folder, start, *flags):
    return cli.main(
        [
            *("sweep", "--config=configs/demo.py:cleanclip", f"--workdir={folder}"),
            *(f"--config.start={start}", *FLAGS, *flags),
        ]
    )


@pytest.mark.slow
def test_a_sweep_resumes_and_draws(capsys, start, tmp_path):
    flags = ("--over=seed=0,1", "--over=optimizer.learning_rate=1e-3")
    assert sweep(tmp_path / "sweep", start, *flags) == 0
    first = capsys.readouterr().out
    assert "| 1e-3 | 2 |" in first and "Student's 95 % interval" in first
    runs = sorted((tmp_path / "sweep/runs").iterdir())
    assert [run.name for run in runs] == [f"seed={seed},learning_rate=1e-3" for seed in (0, 1)]
    stamps = [(run / "evaluation.json").stat().st_mtime_ns for run in runs]
    assert sweep(tmp_path / "sweep", start, *flags) == 0
    assert capsys.readouterr().out == first
    assert stamps == [(run / "evaluation.json").stat().st_mtime_ns for run in runs]
    content = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert len(content["runs"]) == 2
    assert all(row["start"] == str(start) for row in content["runs"])
    assert content["command"].startswith("cleanclip sweep --config=configs/demo.py:cleanclip ")
    for mean in content["means"]:
        values = [
            row["ca"]
            for row in content["runs"]
            if row["optimizer.learning_rate"] == mean["optimizer.learning_rate"]
        ]
        assert mean["figures"]["ca"]["mean"] == pytest.approx(sum(values) / 2)
        assert mean["figures"]["ca"]["n"] == 2 and mean["figures"]["ca"]["of"] == "seeds"
    with (tmp_path / "sweep/sweep.csv").open() as file:
        flat = list(csv.DictReader(file))
    assert [float(row["ca"]) for row in flat] == [row["ca"] for row in content["runs"]]
    assert all(float(row["ca_low"]) <= float(row["ca"]) <= float(row["ca_high"]) for row in flat)
    assert (tmp_path / "sweep/sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_step_is_measured_and_no_step_differs(capsys, start, tmp_path):
    """More checkpoints are no other training: the weights that come out are the same."""
    flags = ("--over=seed=0", "--config.train.steps=5", "--config.train.keep=1")
    assert sweep(tmp_path / "once", start, *flags) == 0
    assert sweep(tmp_path / "way", start, *flags, "--every=2") == 0
    (plain,), (row,) = (
        json.loads((tmp_path / name / "sweep.json").read_text())["runs"] for name in ("once", "way")
    )
    assert [place["step"] for place in row["course"]] == [2, 4, 5]
    assert row["course"][-1]["intervals"] == row["intervals"] == plain["intervals"]
    losses = [
        [line["loss"] for line in read_lines(tmp_path / name / "runs/seed=0/metrics.jsonl")]
        for name in ("once", "way")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 5
    # A step's own figures, not the newest's.
    assert len({json.dumps(place["intervals"]) for place in row["course"]}) > 1
    assert (tmp_path / "way/courses.png").is_file()
    # What is measured is not measured again.
    course = tmp_path / "way/runs/seed=0/course.json"
    known = json.loads(course.read_text())
    known["steps"][0]["ca"] = 0.125
    course.write_text(json.dumps(known))
    assert sweep(tmp_path / "way", start, *flags, "--every=2") == 0
    again = json.loads((tmp_path / "way/sweep.json").read_text())["runs"][0]
    assert [place["ca"] for place in again["course"]] == [
        0.125,
        *(place["ca"] for place in row["course"][1:]),
    ]
    capsys.readouterr()
    assert sweep(tmp_path / "once", start, *flags, "--every=2") == 0
    assert "keeps 1 of 3 checkpoints" in capsys.readouterr().err


def test_the_sweep_goes_on_after_a_failed_run(capsys, tmp_path, monkeypatch):
    """With training and measuring left out."""
    share = {"value": 0.5, "interval": [0.4, 0.6], "count": 2, "of": 4, "definition": "x"}
    run = SimpleNamespace(config=None)
    monkeypatch.setattr("cleanclip_jax.jobs.sweep.build", lambda *_: nullcontext(run))
    monkeypatch.setattr("cleanclip_jax.jobs.sweep.train", lambda run: None)
    evaluation = {"figures": {"ca": share}}
    monkeypatch.setattr("cleanclip_jax.jobs.sweep.measure_run", lambda *_: evaluation)
    monkeypatch.setattr("cleanclip_jax.jobs.sweep.open_start", lambda path: path)
    argv = ["sweep", "--config=configs/demo.py", f"--workdir={tmp_path}/sweep"]
    assert cli.main([*argv, "--over=model.variant=ViT-tset,ViT-test", *FLAGS]) == 1
    shown = capsys.readouterr().out
    assert "| ViT-tset | 0 of 1 |" in shown and "| ViT-test | 1 |" in shown
    assert "failed:" in shown and "config.model.variant: unknown" in shown


def test_a_value_that_no_run_can_have_is_refused_before_the_first_run(capsys, tmp_path):
    argv = ["sweep", "--config=configs/demo.py", f"--workdir={tmp_path}/sweep"]
    assert cli.main([*argv, "--over=attack.rate=0.1,x"]) == 2
    assert "config.attack.rate" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_cannot_be_measured_is_not_trained(capsys, tmp_path, monkeypatch):
    def build(*_):
        raise AssertionError("trained")

    monkeypatch.setattr("cleanclip_jax.jobs.sweep.build", build)
    argv = ["sweep", "--config=configs/demo.py", f"--workdir={tmp_path}/sweep", *FLAGS]
    for key, message in {
        "evaluation.projection=9": "10 or more pictures",
        f"evaluation.floor={tmp_path}/none": "no workdir of a run",
        "evaluation.metrics=none": "unknown 'none'",
    }.items():
        assert cli.main([*argv, "--over=seed=0", f"--config.{key}"]) == 1
        assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--over=seed",), "names no values"),
        (("--over=seed=0,0",), "named twice"),
        (("--over=seed=0", "--every=0"), "a number of steps"),
        (("--over=data.train.split=a/b,a:b",), "the same folder"),
        (("--over=start=configs,nowhere",), "config.start: nowhere is not there"),
    ],
)
def test_a_mistake_is_one_line(flags, message, capsys, tmp_path):
    argv = ["sweep", "--config=configs/demo.py", f"--workdir={tmp_path}/new", *flags]
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not (tmp_path / "new").exists()


def test_commas_in_brackets_part_no_values():
    assert split_values("1e-4,1e-3") == ["1e-4", "1e-3"]
    assert split_values("{'a': 1, 'b': '},'},['x', 'y'],z") == [
        "{'a': 1, 'b': '},'}",
        "['x', 'y']",
        "z",
    ]
    assert read_grid(["config.attack.trigger={'name': 'sig', 'mode': 'blend'}"]) == {
        "attack.trigger": ["{'name': 'sig', 'mode': 'blend'}"]
    }


def test_a_point_has_its_folder():
    assert run_name({"seed": "0", "optimizer.learning_rate": "1e-3"}) == "seed=0,learning_rate=1e-3"
    assert run_name({"attack.target": "a", "evaluation.target": "b"}) == (
        "attack.target=a,evaluation.target=b"
    )
    names = {run_name({"attack.trigger": "x" * 300 + end}) for end in "ab"}
    assert len(names) == 2 and all(len(name) < 200 for name in names)


@pytest.mark.slow
def test_rates_are_trained_side_by_side_and_one_may_fail(capsys, start, tmp_path, monkeypatch):
    groups = []
    really = sweeping.train_group
    monkeypatch.setattr(
        sweeping, "train_group", lambda group: groups.append(len(group)) or really(group)
    )
    rates = "--over=optimizer.learning_rate=1e-4,1e6"
    flags = (rates, "--together", "--config.optimizer.weight_decay=1e6", "--config.train.steps=6")
    assert sweep(tmp_path / "sweep", start, *flags) == 1
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"]
    assert groups == [2]
    assert "error" not in rows[0] and "is not finite" in rows[1]["error"]
