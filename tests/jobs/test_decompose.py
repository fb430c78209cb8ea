"""`cleanclip decompose`, and the repairs that `evaluate` measures by what it wrote."""

import json
import shutil
from pathlib import Path

import pytest

from cleanclip_jax import cli
from cleanclip_jax.measure.decomposition import Prototypes

POISONED = Path(__file__).parent.parent / "golden/workdirs/poisoned"
ONE = "--config.mesh.data=1"


@pytest.mark.slow
def test_prototypes_are_written_and_both_repairs_measured(tmp_path):
    workdir, file = shutil.copytree(POISONED, tmp_path / "run"), tmp_path / "prototypes.npz"
    words = ("decompose", f"--workdir={workdir}", f"--output={file}", "--pictures=20", ONE)
    assert cli.main(words) == 0
    assert Prototypes.load(file).pictures == 20
    repair = f"--config.evaluation.repair={{'prototypes': '{file}', 'mlps': 1}}"
    assert cli.main(("evaluate", f"--workdir={workdir}", repair, ONE)) == 0
    figures = json.loads((workdir / "evaluation.json").read_text())["figures"]
    for how in ("heads", "mlps"):
        assert {f"repaired_{how}_ca", f"repaired_{how}_asr"} <= figures.keys()
        assert figures[f"repaired_{how}_ca"]["of"] == figures["ca"]["of"]
        assert figures[f"repaired_{how}_ca"]["definition"].startswith(f"{how} repaired: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output=p.txt"], "name a file, as prototypes.npz"),
        (["--output=p.npz", "--pictures=0"], "--pictures=0"),
        (["--output=p.npz", "--config.model.dtype=bfloat16"], "belongs to the model"),
        (["--output=p.npz", "--config.data.train={'kind': 'csv', 'path': 'GONE'}"], "GONE"),
    ],
)
def test_what_it_can_not_do_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(("decompose", f"--workdir={POISONED}", ONE, *words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not list(tmp_path.iterdir())
