"""What is refused before anything is measured, and what is said of figures that are replaced."""

import json
import shutil
from pathlib import Path

import pytest

from cleanclip_jax import cli
from cleanclip_jax.bucket import BucketPath
from cleanclip_jax.measure.sets import LabelledSet
from cleanclip_jax.report import evaluation

GOLDEN = Path(__file__).parents[1] / "golden/workdirs/measured"


@pytest.fixture
def workdir(tmp_path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "measured")


@pytest.fixture
def evaluate(workdir, monkeypatch, capsys, caplog):
    """Runs the command as far as the model's loading; returns its code and what it said."""

    class Loaded(Exception):
        pass

    def load_start(*_):
        raise Loaded

    monkeypatch.setattr(evaluation, "load_start", load_start)

    def run(*flags: str) -> tuple[int | None, list[str]]:
        try:
            code = cli.main(["evaluate", f"--workdir={workdir}", *flags])
        except Loaded:
            code = None
        lines = [*capsys.readouterr().err.splitlines(), *caplog.messages]
        caplog.clear()
        return code, lines

    return run


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.evaluation.projection=9", "it takes 10 or more pictures, or 0 for none"),
        ("--config.evaluation.projection=50 --config.evaluation.target=None", "an attack on it"),
        ("--config.evaluation.floor={tmp}/none", "no workdir of a run"),
        ("--floor=start", "began with fresh weights"),
        ("--config.evaluation.branches=True", "the floor's: set config.evaluation.floor"),
        ("--output={tmp}", "is a folder: name the file to write, as {tmp}/evaluation.json"),
        ("--output=/dev/null", "is a link or a device"),
        ("--output={tmp}/link.json", "is a link or a device"),
        ("--output={tmp}/notes.txt", "holds no figures of evaluate"),
        ("--output={tmp}/notes.txt/x.json", "can't be used"),
        ("--output={tmp}/" + "x" * 300, "can't be used: File name too long"),
        ("--config.evaluation.metrics=none", "config.evaluation.metrics: unknown 'none'"),
        ("--config.evaluation.attack.trigger.size=-1", "config.evaluation.attack.trigger.size"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(flag, message, evaluate, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "notes.txt")
    flags = flag.replace("{tmp}", str(tmp_path)).split()
    if "target=None" in flag:
        flags[1:] = ["--config.evaluation.data=None", "--config.evaluation.retrieval={retrieval}"]
        flags[2] = flags[2].format(retrieval={"kind": "digits", "split": "test"})
    code, lines = evaluate(*flags)
    assert code == 2 and len(lines) == 1 and message.replace("{tmp}", str(tmp_path)) in lines[0]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_set_is_refused_first(evaluate, monkeypatch):
    monkeypatch.setattr(LabelledSet, "indices", ())
    assert "the set 'data' is empty" in evaluate()[1][0]


def test_figures_of_other_settings_are_not_replaced_in_silence(evaluate, workdir):
    path = workdir / "evaluation.json"
    settings = json.loads((workdir / "config.json").read_text())["evaluation"]
    path.write_text(json.dumps({"evaluation": {**settings, "cache": 1}, "figures": {}}))
    assert evaluate() == (None, [])  # the cache decides no figure
    path.write_text(json.dumps({"evaluation": {**settings, "control": True}, "figures": {}}))
    code, lines = evaluate("--config.evaluation.templates=['a {}']")
    assert code is None and len(lines) == 1
    assert f"{path}, measured with other evaluation.control, evaluation.templates" in lines[0]
    path.write_text("torn")
    assert evaluate() == (None, [])


def test_a_connection_that_is_lost_is_one_line(workdir, monkeypatch, capsys):
    bucket = BucketPath("memory://evaluation/measured")
    bucket.put(workdir)

    def load_start(start, *_):
        raise OSError(5, "the server is gone", str(start.path / "checkpoints"))

    monkeypatch.setattr(evaluation, "load_start", load_start)
    assert cli.main(["evaluate", f"--workdir={bucket}"]) == 75
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory://evaluation/measured/checkpoints can't be reached: the server is gone" in line
