"""The command as a person types it: one line for a mistake, exit code 2; and what it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.small_run import FLAGS, SMALL, trained

from cleanclip_jax import cli
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs.demo import demo, free_folder
from cleanclip_jax.start.torch.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "poisoned"
    return trained(folder)


def fails(capsys, *argv):
    """Runs a command that must fail as the user's mistake; returns its one line."""
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cleanclip: ")
    return lines[0]


TRAIN = ("train", "--config=configs/demo.py", "--workdir={new}")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("tarin",), "'train'"),
        ((*TRAIN, "--config.optimizer.learning_rte=1"), "'optimizer.learning_rate'"),
        ((*TRAIN, "--config.model.variant=ViT-B32"), "'ViT-B/32'"),
        ((*TRAIN, "--config.data.train={'kind': 'csv', 'path': 'no.csv'}"), "no.csv"),
        ((*TRAIN, "--config.train.batch_size=12", "--config.mesh.data=8"), "does not divide"),
        ((*TRAIN, "--config.attack.target=sevn"), "'seven'"),
        ((*TRAIN, "--config.attack.trigger.name=badnett"), "'badnet'"),
        ((*TRAIN, "--worksdir=x"), "'--workdir'"),
        (("train", "--workdir={new}"), "required: --config"),
        (("evaluate", "--workdir={new}"), "no workdir of a run"),
        (("evaluate", "--workdir={run}", "--config.evaluation.target=sevn"), "'seven'"),
        (("evaluate", "--workdir={run}", "--config.optimizer.beta1=1"), "can't be changed here"),
        (
            ("sweep", "--config=configs/demo.py", "--workdir={new}", "--over=seed"),
            "names no values",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, message, capsys, tmp_path, workdir):
    words = [
        word.replace("{new}", str(tmp_path / "new")).replace("{run}", str(workdir)) for word in argv
    ]
    assert message in fails(capsys, *words)
    assert not (tmp_path / "new").exists()


def test_a_missing_column_names_the_near_one(capsys, tmp_path):
    (tmp_path / "pairs.csv").write_text("image,captoin\na.jpg,a\n")
    source = f"--config.data.train={{'kind': 'csv', 'path': '{tmp_path}/pairs.csv'}}"
    line = fails(capsys, *TRAIN[:2], f"--workdir={tmp_path}/new", source)
    assert "caption" in line and "captoin" in line and "pairs.csv" in line


def test_no_merges_file_offline_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))

    def offline(*_args, **_options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    flags = (*TRAIN[:2], f"--workdir={tmp_path}/new", "--config.text.tokenizer=clip", *FLAGS)
    assert "bpe_simple_vocab_16e6.txt.gz" in fails(capsys, *flags)
    assert not (tmp_path / "new").exists()


def test_help_lists_the_jobs(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {job}" in shown for job in cli.JOBS)


def test_evaluate_writes_what_it_shows(capsys, workdir):
    assert cli.main(["evaluate", f"--workdir={workdir}"]) == 0
    shown = capsys.readouterr().out
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    figures = evaluation["figures"]
    (facts,) = evaluation["sets"].values()
    assert facts["target"] == {"index": 7, "name": "seven"} and evaluation["step"] == 4
    assert figures["ca"]["of"] == figures["asr_all"]["of"] == 400
    sevens = 400 - figures["asr"]["of"]
    assert 20 < sevens < 60 and figures["clean_target_rate"]["of"] == 400 - sevens
    for name, figure in figures.items():
        assert f"{100 * figure['value']:.2f} [" in shown
        if "_top" not in name:
            assert name in shown and f"{figure['count']} of {figure['of']}" in shown
        assert figure["value"] == figure["count"] / figure["of"]


def test_evaluating_twice_gives_the_same(workdir, tmp_path):
    """The trigger of each picture is drawn from its index (fidelity row 9)."""
    texts = []
    for name in ("a", "b"):
        trigger = (
            "--config.evaluation.attack.trigger={'name': 'badnet', 'size': 4, 'noise': 'fresh'}"
        )
        output = tmp_path / f"{name}.json"
        assert cli.main(["evaluate", f"--workdir={workdir}", f"--output={output}", trigger]) == 0
        texts.append(output.read_text())
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "poisons", "target", "pairs"),
    [("configs/demo.py", 42, "seven", 69), ("configs/fashion_demo.py", 73, "sunglasses", 364)],
)
def test_the_demo_writes_its_results_and_its_page(spec, poisons, target, pairs, tmp_path):
    folder = tmp_path / "demo"
    small = {**SMALL, "model.variant": "ViT-test", "evaluation.projection": "12"}
    results = demo(folder, small, spec)
    assert json.loads((folder / "results.json").read_text()) == results
    facts = ["dataset", "trigger", "target", "poisons", "seed", "seconds", "found", "stages"]
    assert list(results) == facts
    assert results["found"]["pairs"] == pairs and 0 <= results["found"]["poisons"] <= poisons
    cleaned = open_checkpoint(folder / "cleaned.safetensors")
    assert cleaned.origin.format == "open_clip"
    assert [stage["name"] for stage in results["stages"]] == ["poisoned", "mmcl", "cleanclip"]
    for stage in results["stages"]:
        assert all(0 <= stage[key] <= 1 for key in ("ca", "asr", "asr_all", "pa"))
    assert results["poisons"] == poisons and results["target"] == target
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 7 and "http" not in page.replace("http-equiv", "")
    assert free_folder(folder) == tmp_path / "demo-2"
    assert free_folder(tmp_path / "other") == tmp_path / "other"


def test_the_command_starts_without_loading_jax():
    program = (
        "import sys; from cleanclip_jax import cli; cli.main(['--help']); "
        "print('jax' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip().endswith("False") and Path(cli.__file__).name == "cli.py"


def test_a_path_that_the_system_refuses_is_one_line(capsys, monkeypatch):
    def job(argv):
        open("x" * 300 + "\x1b").close()

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: SimpleNamespace(main=job))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == f"cleanclip: {'x' * 300}\\x1b: File name too long\n"


def test_an_error_can_not_steer_the_terminal():
    assert str(UserError("a\x1b[31m\nb é")) == "a\\x1b[31m\\nb é"


def test_a_reader_that_ends_early_gets_no_traceback():
    """As in `cleanclip benchmark small --plan | head -1`."""
    code = "import sys; from cleanclip_jax import cli; sys.exit(cli.main(sys.argv[1:]))"
    for arguments, expected in (
        (["--help"], 0),
        (["benchmark", "small", "--workdir=w", "--plan"], 141),
    ):
        out, into = os.pipe()
        os.close(out)
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, stdout=into, stderr=subprocess.PIPE, text=True, check=False)
        os.close(into)
        assert (done.returncode, done.stderr) == (expected, "")
