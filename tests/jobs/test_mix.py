"""The mix command: its ends are the two models, a stopped mix goes on, what can't be is refused."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.torch_files import cleanclip_file
from ml_collections import ConfigDict

from cleanclip_jax import cli
from cleanclip_jax.config import from_json, to_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.jobs import mix
from cleanclip_jax.jobs.mix import read_alphas
from cleanclip_jax.report.evaluation import measure_run
from cleanclip_jax.start.mixing import MixedStart
from cleanclip_jax.start.model import make_model, shapes_of
from cleanclip_jax.start.start import Start, open_start
from cleanclip_jax.start.store import load_saved, save_first
from cleanclip_jax.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A run of two steps, and another one's weights in a workdir of the same kind."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(GOLDEN / "workdirs/poisoned", folder / "a")
    shutil.copytree(folder / "a", folder / "b", ignore=shutil.ignore_patterns("checkpoints"))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), x.dtype),
        load_saved(folder / "a")[1],
    )
    save_first(folder / "b", variables)
    return folder / "a", folder / "b"


def mixed(models: tuple[Path, Path], folder: Path, *flags: str) -> int:
    a, b = models
    return cli.main(["mix", f"--from={a}", f"--to={b}", f"--workdir={folder}", *flags])


def figures(folder: Path, alpha: str) -> dict:
    return json.loads((folder / f"runs/alpha={alpha}/evaluation.json").read_text())["figures"]


def stub(folder: Path, stop_at: str = "") -> tuple[list[str], Callable]:
    """Measuring left out: what is measured, and a function that stops once, as Ctrl-C does."""
    calls: list[str] = []
    share = {"value": 0.5, "interval": [0.4, 0.6], "count": 2, "of": 4, "definition": "x"}

    def measure(start: Start, config: ConfigDict) -> dict:
        if start.path.name == stop_at and not (folder / "stopped").exists():
            (folder / "stopped").touch()
            raise KeyboardInterrupt
        calls.append(start.path.name)
        evaluation = {"evaluation": config.evaluation.to_dict(), "figures": {}}
        evaluation |= {"step": 0, "geometry": "crop", "trigger": None, "retrieval": None}
        evaluation |= {"sets": {}, "workdir": "", "figures": {"ca": {**share, "unit": "share"}}}
        write_whole(start.path / "evaluation.json", json.dumps(evaluation))
        return evaluation

    return calls, measure


@pytest.mark.slow
def test_a_stopped_mix_goes_on_and_one_is_taken_home(models, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "mix"
    calls, measure = stub(tmp_path, stop_at="alpha=1")
    monkeypatch.setattr(mix, "measure_run", measure)
    flags = ("--alpha=0,0.5,1,-0.5",)
    assert mixed(models, folder, *flags) == 130
    assert len(json.loads((folder / "sweep.json").read_text())["runs"]) == 2
    assert mixed(models, folder, *flags, "--save=0.5,-0.5") == 0
    # None is measured twice, also where its weights are wanted afterwards.
    assert calls == [f"alpha={alpha}" for alpha in ("0", "0.5", "1", "-0.5")]
    assert "| 0.5 | 1 | 50.0 [40.0, 60.0] |" in capsys.readouterr().out
    rows = json.loads((folder / "sweep.json").read_text())["runs"]
    assert [row["alpha"] for row in rows] == ["0", "0.5", "1", "-0.5"]
    a, b = (load_saved(path)[1]["params"] for path in models)
    for alpha in (0.5, -0.5):
        chosen = load_saved(folder / f"runs/alpha={alpha}")[1]["params"]
        for x, y, z in zip(*map(jax.tree.leaves, (a, b, chosen)), strict=True):
            line = np.float32(1 - alpha) * x.astype(np.float32) + alpha * y.astype(np.float32)
            assert z.dtype == x.dtype and (z == line.astype(x.dtype)).all()
    assert not (folder / "runs/alpha=0/checkpoints").exists()
    capsys.readouterr()
    assert mixed(models[::-1], folder, *flags) == 2
    assert "is another mix's: its 'from' is" in capsys.readouterr().err


@pytest.mark.slow
def test_the_ends_have_the_models_figures(models, tmp_path):
    folder = tmp_path / "mix"
    assert mixed(models, folder, "--alpha=0,0.5,1", "--save=0.5") == 0
    places = (("0", models[0]), ("0.5", folder / "runs/alpha=0.5"), ("1", models[1]))
    for alpha, model in places:
        start, path = open_start(model), tmp_path / f"{alpha}.json"
        measure_run(start, start.config, path)
        assert json.loads(path.read_text())["figures"] == figures(folder, alpha)
    assert len({json.dumps(figures(folder, alpha)) for alpha in ("0", "0.5", "1")}) == 3
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # Pictures are drawn of the one that has its weights.
    assert cli.main(["report", str(folder), "--pictures=1"]) == 0
    page = (folder / "report/report.html").read_text()
    assert "weights of two models, mixed" in page and "cleanclip mix --from=" in page
    assert cli.main(["convert", str(folder / "runs/alpha=0.5"), str(tmp_path / "mixed.pt")]) == 0


def resnets(folder: Path, models: tuple[Path, Path]) -> tuple[Path, Path]:
    """Two workdirs of a small ResNet with random weights."""
    paths = folder / "a", folder / "b"
    for seed, path in enumerate(paths):
        with_config(models[0], path, "model.variant", "RN-test")
        shutil.rmtree(path / "checkpoints")
        config = from_json(path / "config.json")
        config.model.image_size, config.model.param_dtype = 32, "float32"
        config.data.train = {"kind": "digits", "split": "train"}
        (path / "config.json").write_text(to_json(config))
        start, rng = open_start(path), np.random.default_rng(seed)
        shapes = shapes_of(make_model(config, start.vocab_size))
        draw = partial(rng.uniform, 0.01, 0.2)
        save_first(path, jax.tree.map(lambda x, d=draw: d(size=x.shape).astype(x.dtype), shapes))
    return paths


@pytest.mark.slow
def test_a_resnets_statistics_are_taken_anew_between_the_models(models, tmp_path, monkeypatch):
    seen = {}

    def measure(start: MixedStart, config: ConfigDict) -> dict:
        seen[start.path.name] = start.variables["batch_stats"]
        return stub(tmp_path)[1](start, config)

    monkeypatch.setattr(mix, "measure_run", measure)
    pair = resnets(tmp_path, models)
    flags = ("--alpha=0,0.5,1", "--pictures=6")
    assert mixed(pair, tmp_path / "mix", "--alpha=0,1") == 0  # which needs no statistics
    assert mixed(pair, tmp_path / "mix", *flags) == 0
    a, b = (load_saved(path)[1]["batch_stats"] for path in pair)
    for alpha, model in (("0", a), ("1", b)):
        same = jax.tree.map(np.array_equal, seen[f"alpha={alpha}"], model)
        assert all(jax.tree.leaves(same))
    means = seen["alpha=0.5"]["visual"]["bn1"]["mean"]
    assert (means != (a["visual"]["bn1"]["mean"] + b["visual"]["bn1"]["mean"]) / 2).all()
    statistics = json.loads((tmp_path / "mix/mix.json").read_text())["statistics"]
    assert statistics["pictures"] == 6 and statistics["seed"] == 0
    # Other pictures are other models.
    assert mixed(pair, tmp_path / "mix", *flags, "--seed=1") == 2
    assert mixed(pair, tmp_path / "mix2", *flags, "--config.data.train={}") == 2


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("0,0.1,...,1", [f"{i / 10:g}" for i in range(11)]),
        ("1,0.75,…,0", ["1", "0.75", "0.5", "0.25", "0"]),
        ("-0.5, -0.25,..., 0.5,2", ["-0.5", "-0.25", "0", "0.25", "0.5", "2"]),
        ("0.30,1e-1,-0", ["0.3", "0.1", "0"]),
        ("0.5", ["0.5"]),
        ("0,0.3,...,1", ["0", "0.3", "0.6", "0.9", "1"]),
    ],
)
def test_alphas_are_read(given: str, numbers: list[str]):
    assert read_alphas("--alpha", given) == numbers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "it takes numbers"),
        ("a", "it takes numbers"),
        ("0,...,1", "it takes numbers"),
        ("0,1,...", "it takes numbers"),
        ("0,0.1,...,-1", "leads from 0.1 nowhere"),
        ("0,0,...,1", "leads from 0 nowhere"),
        ("0,1e-9,...,1", "leads from 1E-9 nowhere"),
        ("nan", "between -1000 and 1000"),
        ("inf,0", "between -1000 and 1000"),
        ("1e9", "between -1000 and 1000"),
        ("0,0.0", "named twice"),
    ],
)
def test_alphas_that_are_none_are_one_line(given: str, message: str):
    with pytest.raises(UserError, match=message):
        read_alphas("--alpha", given)


def with_config(model: Path, folder: Path, key: str, value: object) -> Path:
    """A copy of a run whose config says something else; its weights are not looked at."""
    shutil.copytree(model, folder)
    config = from_json(folder / "config.json")
    section, _, last = key.rpartition(".")
    with config.unlocked(), config.ignore_type():
        config[section][last] = value
    (folder / "config.json").write_text(to_json(config))
    return folder


def test_what_cannot_be_mixed_is_one_line(models, tmp_path, capsys, golden):
    a, b = models
    cleanclip_file(golden, "vit", tmp_path / "vit.pt")
    other = with_config(b, tmp_path / "gelu", "model.activation", "gelu")
    large = with_config(b, tmp_path / "large", "model.image_size", 32)
    words = with_config(b, tmp_path / "words", "text.context_length", 12)
    tokenizer = json.loads(Tokenizer.load(words / "tokenizer.json").as_json())
    vocab = tokenizer["model"]["vocab"]
    one, two = [word for word in vocab if len(word) == 1][:2]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (words / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    empty = shutil.copytree(a, tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    for pair, flags, message in (
        ((a, other), (), "other architecture than .*: its activation is gelu, not quick_gelu"),
        ((a, large), (), "its image_size is 32, not 16"),
        ((a, tmp_path / "vit.pt"), (), "another architecture than"),
        ((a, words), (), "has another tokenizer than"),
        ((a, empty), (), "holds no checkpoints"),
        ((a, tmp_path / "nowhere"), (), "nowhere is no workdir"),
        ((a, b), ("--save=0.3", "--alpha=0,1"), "--save=0.3 is none of --alpha"),
        ((a, b), ("--pictures=1",), "--pictures takes"),
        ((a, b), ("--config.train.steps=1",), "config.train.steps belongs to the models"),
        ((a, b), ("--config.evaluation.data=None",), "config.evaluation.data is not set"),
        ((a, b), (f"--workdir={tmp_path / 'full'}",), "is not empty and no mix's"),
        ((a, b), (f"--workdir={a}",), "is not empty and no mix's"),
    ):
        assert mixed(pair, tmp_path / "mix", *flags) == 2, message
        lines = capsys.readouterr().err.strip().splitlines()
        assert re.search(message, lines[-1]), (message, lines)
        assert not (tmp_path / "mix").exists()
