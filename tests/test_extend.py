"""docs/extend.md: its lines run as they stand there, by --import and in a worker process."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.small_run import FLAGS

from cleanclip_jax import cli, config_keys, registry
from cleanclip_jax.attacks import device_triggers, triggers
from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.config import defaults, override
from cleanclip_jax.data import sources
from cleanclip_jax.detect import detectors
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import metrics
from cleanclip_jax.measure.estimates import share
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.suite.cells import config_of_cell
from cleanclip_jax.suite.suites import open_suite
from cleanclip_jax.text import prompts

DOCUMENT = Path(__file__).parent.parent / "docs" / "extend.md"
HAS_TERMS = importlib.util.find_spec("cleanclip_jax.losses.terms") is not None


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch):
    tables = [triggers.TRIGGERS, sources.KINDS, prompts.TEMPLATES, metrics.METRICS]
    tables.append(detectors.DETECTORS)
    if HAS_TERMS:
        tables.append(importlib.import_module("cleanclip_jax.losses.terms").TERMS)
    for table in (*tables, config_keys.KEYS, device_triggers.ON_DEVICE):
        monkeypatch.setattr(table, "_rows", dict(table._rows))
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield
    for name in {"my_attack", "other", "sick"} & (set(sys.modules) - modules):
        del sys.modules[name]


@pytest.fixture
def my_attack(tmp_path) -> str:
    """A file of the document's lines; those of the term where there are terms."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)
    assert len(blocks) == 6
    kept = [block for block in blocks if HAS_TERMS or "@term" not in block]
    (tmp_path / "my_attack.py").write_text("\n\n".join(kept))
    return f"--import={tmp_path / 'my_attack.py'}"


@pytest.mark.slow
def test_the_documents_lines_train_and_measure_a_model(my_attack, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parent.parent))
    settings = {
        "data.train": "{'kind': 'noise', 'count': 64}",
        "data.workers": "1",
        "attack.trigger": "{'name': 'frame', 'width': 1}",
        "attack.target": "bright",
        "attack.count": "8",
        "attack.templates": "snapshots",
        "evaluation.data": "{'kind': 'noise', 'count': 20}",
        "evaluation.templates": "snapshots",
        "evaluation.metrics": "moved",
        "model.image_size": "16",
    }
    if HAS_TERMS:
        settings["objective.spread"] = "0.5"
    given = [f"--config.{key}={value}" for key, value in settings.items()]
    command = ["train", my_attack, "--config=configs/demo.py", f"--workdir={workdir}"]
    assert cli.main([*command, *FLAGS, *given]) == 0
    assert cli.main(["evaluate", my_attack, f"--workdir={workdir}"]) == 0
    found = json.loads((workdir / "evaluation.json").read_text())
    assert found["trigger"]["name"] == "frame"
    assert found["sets"]["data"]["templates"] == list(prompts.TEMPLATES["snapshots"])
    assert found["figures"]["moved"]["of"] == 20
    assert found["figures"]["ca"]["of"] == 20
    # Without the file the workdir names what nobody registered.
    del sources.KINDS._rows["noise"]
    capsys.readouterr()
    assert cli.main(["evaluate", f"--workdir={workdir}"]) == 2
    error = capsys.readouterr().err
    assert "unknown 'noise'" in error and "--import=FILE.py" in error
    assert "Traceback" not in error


def test_a_trigger_keeps_to_its_options_and_is_refused_on_the_device(my_attack):
    registry.load_extensions([my_attack.removeprefix("--import=")])
    trigger = make_trigger({"name": "frame", "width": 1})
    black = np.zeros((4, 4, 3), np.uint8)
    framed = trigger.apply(black, trigger.stamp(4, 0))
    assert framed[0].min() == 255 and framed[1:3, 1:3].max() == 0 and black.max() == 0
    with pytest.raises(UserError, match="width is 0: it takes a whole number, 1 or more"):
        make_trigger({"name": "frame", "width": 0})
    with pytest.raises(
        UserError, match=r"views\.on=device: the trigger 'frame' is made on the host"
    ):
        device_triggers.version(trigger)
    device_triggers.ON_DEVICE.add("frame", lambda trigger, images, stamps: images)
    device_triggers.version(trigger)


@pytest.mark.skipif(not HAS_TERMS, reason="the loss has no table of terms yet")
def test_a_terms_weight_is_a_key(my_attack):
    registry.load_extensions([my_attack.removeprefix("--import=")])
    config = defaults()
    assert config.objective.spread == 0
    override(config, "objective.spread", "0.5")
    assert config.objective.spread == 0.5


def test_a_detector_ranks_pairs(my_attack):
    registry.load_extensions([my_attack.removeprefix("--import=")])
    assert detectors.choose(["spread_out"]) == ("spread_out",)
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    draw = detectors.Draw(rows, rows, np.arange(40), 4, make_mesh(1))
    row = {"spread_out": detectors.DETECTORS["spread_out"]}
    scores = detectors.score_pairs(row, detectors.Pairs(rows, rows, np.arange(40)), [draw])
    want = draw.references.among_themselves.distance.mean(1)
    np.testing.assert_allclose(scores["spread_out"], want, rtol=1e-6)


def test_a_source_is_checked_by_its_annotations(my_attack):
    registry.load_extensions([my_attack.removeprefix("--import=")])
    assert len(sources.open_source({"kind": "noise"})) == 64
    with pytest.raises(UserError, match=r"count is 'many': it takes a whole number"):
        sources.open_source({"kind": "noise", "count": "many"})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "there is no such file"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*sick.py line 1\)"),
        (
            "from cleanclip_jax.extend import prompts\nprompts('imagenet', 'a {}')",
            "'imagenet' is taken",
        ),
        ("from cleanclip_jax.extend import triger", "triger"),
    ],
)
def test_a_file_that_does_not_load_is_one_line(lines, message, tmp_path):
    path = tmp_path / "sick.py"
    if lines is not None:
        path.write_text(lines)
    with pytest.raises(UserError, match=message) as error:
        registry.load_extensions([str(path)])
    assert "\n" not in str(error.value)


def test_a_file_may_not_have_another_modules_name(tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UserError, match="json is another module's name"):
        registry.load_extensions([str(tmp_path / "json.py")])


def test_a_module_and_an_entry_point_are_imported_once(tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text(
        "from cleanclip_jax.extend import prompts\nprompts('others', 'a {}')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: other\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cleanclip_jax]\nmine = other\n")
    registry.load_extensions()
    registry.load_extensions(["other"])
    assert prompts.TEMPLATES["others"] == ("a {}",) and registry.extensions() == ("other",)


def test_a_metric_that_gives_no_figure_is_one_line():
    classifier = Classifier(("a", "b"), np.eye(2), None, True, "text")
    seen = metrics.Seen(np.array([0, 1]), np.eye(2, dtype=np.float32), None, None, classifier)
    np.testing.assert_array_equal(seen.scores(2 * seen.clean), np.eye(2))
    with pytest.raises(UserError, match="x gave float, no Figure"):
        metrics.custom_figures({"x": lambda seen: 0.5}, seen)  # pyright: ignore
    with pytest.raises(UserError, match="'ca' is another figure's name"):
        metrics.custom_figures(
            {"ca": lambda seen: share(seen.labels == 0, "x")}, seen, taken=["ca"]
        )
    with pytest.raises(UserError, match="unknown 'none'"):
        metrics.METRICS.find("none")


def test_a_row_of_ones_own_in_the_benchmark(my_attack, tmp_path, monkeypatch, capsys):
    """docs/benchmark.md: the suite that it shows plans the new attack's cells, with its trigger."""
    document = DOCUMENT.with_name("benchmark.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", document, re.M | re.S)
    (tmp_path / "my_suite.py").write_text(block)
    command = ["benchmark", str(tmp_path / "my_suite.py"), my_attack, f"--workdir={tmp_path / 'w'}"]
    assert cli.main([*command, "--only=attack=frame", "--plan"]) == 0
    planned = capsys.readouterr().out
    assert "frame, seed 0, cleanclip, rate 0.002" in planned and "badnet" not in planned
    suite = open_suite(str(tmp_path / "my_suite.py"), {})
    poisoned = next(c for c in suite.cells if c.name.endswith("frame, seed 0"))
    assert config_of_cell(poisoned, {"floor": "floor"}).attack.trigger.width == 2
