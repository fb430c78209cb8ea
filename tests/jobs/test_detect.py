"""The detect command: a run's pairs scored, what is written, what is refused in one line."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.scores import read_scores
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.detect.findings import SHAPE
from cleanclip_jax.files import read_json
from cleanclip_jax.jobs.detect import KINDS

DIGITS = {"kind": "digits", "split": "train", "templates": ["a handwritten {}."]}
QUICK = ("--sample=100", "--draws=1", "--k=8")

pytestmark = pytest.mark.usefixtures("cache")


def detect(*flags):
    return cli.main(["detect", "pairs", *map(str, flags)])


@pytest.mark.slow
def test_a_runs_pairs(workdir, tmp_path, capsys):
    out = tmp_path / "out"
    loss = ("--detectors=slof,kdist,clip_rise,clip_low_floor,safeclip,loss", f"--floor={workdir}")
    assert detect(f"--workdir={workdir}", f"--output={out}", *loss, *QUICK, "--drop=0.05") == 0
    shown = capsys.readouterr().out
    assert "1397 of 1397 pairs scored" in shown and "42 poisons are known" in shown
    found = read_json(out / "detect.json", SHAPE)
    source = open_source(DIGITS)
    assert found["data"]["fingerprint"] == source.fingerprint and found["poisons"] == 42
    assert list(found["figures"]) == loss[0].split("=")[1].split(",")
    assert found["model"]["path"] == str(workdir) and found["floor"]["digest"]
    for name in found["figures"]:
        scores = read_scores(out / "scores" / f"{name}.parquet", source)
        assert np.isfinite(scores).all()
    rise = read_scores(out / "scores" / "clip_rise.parquet", source)
    np.testing.assert_allclose(rise, 0, atol=1e-6)  # the floor is the run itself
    figure = found["figures"]["slof"]["recall_at_5"]
    poisons = Plan.load(workdir / "poison.parquet").index
    left = open_source({**DIGITS, "skip": str(out / "drop.csv")})
    dropped = np.setdiff1d(source.ids(), left.ids())
    assert len(dropped) == found["dropped"] == 69
    assert found["dropped_poisons"] == np.isin(dropped, poisons).sum() == figure["count"]
    with (out / "top.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1000 and {int(row["id"]) for row in rows[:69]} == set(dropped.tolist())
    assert {int(r["id"]) for r in rows if r["poisoned"] == "1"} <= set(poisons.tolist())
    assert rows[0]["caption"].startswith("a handwritten") and rows[0]["where"]
    assert not list((out / "parts").iterdir())


@pytest.mark.slow
def test_other_pairs_whose_poisons_a_file_names(workdir, tmp_path, capsys):
    for i in range(30):
        noise = np.random.default_rng(i).integers(256, size=(20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    lines = [f"{i}.png,picture {i}" for i in range(30)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
    config = {"kind": "csv", "path": str(tmp_path / "pairs.csv")}
    source = open_source(config)
    write_ids(tmp_path / "truth.csv", np.array([3, 17]), source.fingerprint)
    flags = (f"--workdir={workdir}", f"--source={config}", f"--output={tmp_path / 'out'}", "--k=4")
    assert detect(*flags, f"--truth={tmp_path / 'truth.csv'}", "--detectors=kdist") == 0
    found = json.loads((tmp_path / "out/detect.json").read_text())
    assert found["poisons"] == 2 and found["data"]["pairs"] == 30
    assert found["figures"]["kdist"]["auroc"]["of"] == 2
    assert detect(*flags, "--detectors=kdist") == 0
    found = json.loads((tmp_path / "out/detect.json").read_text())
    assert found["poisons"] is None and found["figures"] == {}
    assert "poisons are known" not in capsys.readouterr().out.rpartition("pairs scored")[2]
    capsys.readouterr()
    one = {**config, "rows": (0, 1)}
    for given, message in ((one, "1 pairs are too few for --k=4"), ({"kind": "x"}, "unknown 'x'")):
        assert detect(flags[0], f"--source={given}", *flags[2:]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k=300", "--sample=100"], "--k=300 is no less than --sample=100"),
        (["--k=1400"], "1397 pairs are too few for --k=1400"),
        (["--detectors=slif"], "--detectors: unknown 'slif'. Did you mean 'slof'"),
        (["--detectors=slof", "--by=dao"], "--by=dao: it is none of --detectors=slof"),
        (["--detectors=clip_rise"], "clip_rise compares with a clean model"),
        (["--floor=start"], "this run began with fresh weights"),
        (["--drop=1.5"], "--drop=1.5: give a share"),
        (["--top=0"], "--top=0"),
        (["--source=nonsense"], "--source=nonsense: write"),
        (["--truth=nowhere.csv"], "nowhere.csv"),
        (["--config.seed=3"], "--config.seed belongs to the model"),
        (["--neighbours=left"], "--neighbours: unknown 'left'"),
        (["--import=nowhere.py"], "there is no such file"),
    ],
)
def test_a_mistake_is_one_line(flags, message, workdir, tmp_path, capsys):
    assert detect(f"--workdir={workdir}", f"--output={tmp_path / 'out'}", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pairs_that_are_not_the_runs_are_refused(workdir, tmp_path, capsys):
    other = shutil.copytree(workdir, tmp_path / "other")
    inputs = json.loads((other / "inputs.json").read_text())
    inputs["data"]["fingerprint"] = "f" * 64
    (other / "inputs.json").write_text(json.dumps(inputs))
    assert detect(f"--workdir={other}") == 2
    assert "was trained on other pairs than config.data.train gives now" in capsys.readouterr().err


def test_the_kinds_of_detection(capsys):
    assert cli.main(["detect", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"cleanclip detect {kind} " in shown for kind in KINDS)
    assert cli.main(["detect"]) == 2
    assert cli.main(["detect", "paris"]) == 2
    assert "cleanclip detect: unknown 'paris'. Did you mean 'pairs'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_command(kind, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["detect", kind, "--help"])
    assert ended.value.code == 0
    assert f"usage: cleanclip detect {kind} " in capsys.readouterr().out


@pytest.mark.slow
def test_a_runs_pictures(workdir, tmp_path, capsys):
    flags = ["detect", "pictures", f"--workdir={workdir}", f"--output={tmp_path / 'out'}"]
    few = {"kind": "digits", "split": "test", "templates": DIGITS["templates"]}
    write_ids(tmp_path / "few.csv", np.arange(60), open_source(few).fingerprint)
    few["keep"] = str(tmp_path / "few.csv")
    texts = {"cat": ["it purrs"], "dog": ["it barks"]}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    prompts = f"--prompts={tmp_path / 'texts.json'}"
    assert cli.main([*flags, f"--config.evaluation.data={few}", f"--clean={few}"]) == 0
    shown = capsys.readouterr().out
    assert "120 pictures, " in shown and "are flagged, from a score of" in shown
    results = json.loads((tmp_path / "out/pictures.json").read_text())
    assert results["figures"]["auroc"]["of"] == results["figures"]["tpr_at_fpr_1"]["of"] == 60
    with (tmp_path / "out/pictures.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True) and len(rows) == 120
    assert sum(row["triggered"] == "1" for row in rows) == 60
    clean_flagged = [row for row in rows if row["triggered"] == "0" and row["flagged"] == "1"]
    assert len(clean_flagged) <= 1  # one in a hundred of sixty, and float32 written in six digits
    no_set = ["--config.evaluation.data=None", "--config.evaluation.attack=None"]
    assert cli.main([*flags, *no_set, f"--source={few}", prompts]) == 0
    with (tmp_path / "out/pictures.csv").open() as stream:
        assert list(csv.DictReader(stream).fieldnames or ()) == ["index", "where", "score"]
    capsys.readouterr()
    for given, message in (
        ([prompts], "texts.json: there is no text for 'zero', 'one'"),
        ([*no_set, f"--source={few}"], "names no classes: give --prompts=FILE.json"),
        ([*no_set, prompts], "the run names no attack to test on"),
        (["--source=7"], "--source=7: write"),
        (["--false_positives=0"], "--false_positives=0.0: give a share"),
    ):
        assert cli.main([*flags, *given]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
