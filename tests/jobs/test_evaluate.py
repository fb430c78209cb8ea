"""The evaluate command: several sets, floor, control, retrieval, a head; what is computed anew."""

import importlib
import json

import numpy as np
import pytest
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.config import defaults, from_json, to_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder, encoder_of
from cleanclip_jax.measure.measure import evaluate
from cleanclip_jax.measure.projection import Projection
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import load_start, open_start

DIGITS = {"kind": "digits", "split": "test", "templates": ["a handwritten {}."]}

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures and texts went through the towers."""
    counts = {"images": 0, "texts": 0}
    images, texts = Encoder.image_features, Encoder.text_features

    def count_images(self, batch, *rest):
        counts["images"] += len(batch)
        return images(self, batch, *rest)

    def count_texts(self, batch):
        counts["texts"] += len(batch)
        return texts(self, batch)

    monkeypatch.setattr(Encoder, "image_features", count_images)
    monkeypatch.setattr(Encoder, "text_features", count_texts)
    return counts


def measured(workdir, tmp_path, *flags):
    output = tmp_path / "out" / "evaluation.json"
    assert cli.main(["evaluate", f"--workdir={workdir}", f"--output={output}", *flags]) == 0
    return json.loads(output.read_text())


def values(evaluation, *names):
    return [evaluation["figures"][name]["value"] for name in names]


@pytest.mark.slow
def test_other_templates_embed_texts_alone(workdir, tmp_path, encoded):
    first = measured(workdir, tmp_path)
    assert encoded == {"images": 800, "texts": 10}
    again = measured(workdir, tmp_path, "--config.evaluation.templates=['{}', 'a {}', 'my {}']")
    assert encoded == {"images": 800, "texts": 40}
    (facts,) = again["sets"].values()
    assert facts["templates"] == ["{}", "a {}", "my {}"]
    assert facts["classifier"] == "text, 3 templates"
    for name, figure in first["figures"].items():
        assert figure["of"] in (400, again["figures"]["asr"]["of"]), name
        low, high = figure["interval"]
        assert 0 <= low <= figure["value"] <= high <= 1 and figure["definition"]
    assert measured(workdir, tmp_path)["figures"] == first["figures"]
    uncached = measured(workdir, tmp_path, "--config.evaluation.cache=0")
    assert uncached["figures"] == first["figures"] and encoded["images"] == 1600


@pytest.mark.slow
def test_several_sets_in_one_table(workdir, tmp_path, capsys, encoded):
    for name, shade in (("bright", 200), ("dark", 20)):
        folder = tmp_path / "shades" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 20), (shade,) * 3).save(folder / "a.png")
    shades = {"kind": "folder", "path": str(tmp_path / "shades")}
    sets = [
        {"name": "again", "data": DIGITS, "templates": ["a handwritten {}."]},
        {"name": "shades", "data": shades},
    ]
    evaluation = measured(workdir, tmp_path, f"--config.evaluation.sets={sets}")
    shown = capsys.readouterr().out
    assert list(evaluation["sets"]) == ["data", "again", "shades"]
    assert encoded["texts"] == 10 + 2  # the same classes and prompts once
    assert values(evaluation, "ca", "asr") == values(evaluation, "again.ca", "again.asr")
    assert (
        evaluation["figures"]["shades.ca"]["of"] == 2 and "shades.asr" not in evaluation["figures"]
    )
    assert "shades: 'seven' is not among the 2 classes" in shown
    rows = [line.split()[0] for line in shown.splitlines() if line.startswith("  ")]
    assert rows[:4] == ["set", *evaluation["sets"]]


def test_floor_and_control(workdir, tmp_path, capsys):
    evaluation = measured(
        workdir, tmp_path, f"--floor={workdir}", "--config.evaluation.control=True"
    )
    shown = capsys.readouterr().out
    assert values(evaluation, "ca", "asr", "asr_top3") == values(
        evaluation, "floor_ca", "floor_asr", "floor_asr_top3"
    )
    assert "control_target_rate" in shown and "floor_asr_all" in shown
    assert "floor_control_ca" not in evaluation["figures"]
    # The digits are square: squashing them is cropping them.
    assert values(evaluation, "control_ca", "control_target_rate") == values(
        evaluation, "ca", "clean_target_rate"
    )
    assert evaluation["floor"] == {"workdir": str(workdir), "step": 2}
    assert evaluation["figures"]["floor_asr"]["definition"].startswith("floor: triggered")
    assert cli.main(["evaluate", f"--workdir={workdir}", "--floor=start"]) == 2
    assert "began with fresh weights" in capsys.readouterr().err


def test_the_control_goes_with_the_squashed_attack(workdir, tmp_path):
    evaluation = measured(workdir, tmp_path, "--config.evaluation.attack.geometry=squash")
    assert evaluation["geometry"] == "squash" and "control_ca" in evaluation["figures"]


def test_retrieval_beside_or_alone(workdir, tmp_path, capsys):
    retrieval = {**DIGITS, "poisoned_share": 0.05}
    flags = [f"--config.evaluation.retrieval={retrieval}", "--config.evaluation.projection=12"]
    evaluation = measured(workdir, tmp_path, *flags)
    shown = capsys.readouterr().out
    assert evaluation["retrieval"]["captions"] == evaluation["retrieval"]["pictures"] == 400
    assert evaluation["retrieval"]["target"] == "seven"
    recall = evaluation["figures"]["retrieval.image_to_text_r10"]
    # Captions of one class are the same: the nine others' come before or are tied.
    assert recall["of"] == 400 and recall["count"] == 0 and "image_to_text_r10" in shown
    assert evaluation["figures"]["retrieval.backdoor_queries_r10"]["of"] == 1
    assert (
        "20 of 400 pictures"
        in evaluation["figures"]["retrieval.backdoor_queries_r10"]["definition"]
    )
    assert (tmp_path / "out/projection.png").read_bytes().startswith(b"\x89PNG")
    projection = Projection.load(tmp_path / "out/projection.npz")
    assert projection.pca.shape == projection.tsne.shape == (24, 2) and projection.target == 7
    alone = measured(workdir, tmp_path, flags[0], "--config.evaluation.data=None")
    assert alone["sets"] == {} and alone["figures"] == {
        name: figure
        for name, figure in evaluation["figures"].items()
        if name.startswith("retrieval.")
    }
    bad = f"--config.evaluation.retrieval={ {**DIGITS, 'poisoned_share': 2} }"
    assert cli.main(["evaluate", f"--workdir={workdir}", bad]) == 2
    assert "give a share between 0 and 1" in capsys.readouterr().err


def test_a_head_takes_the_place_of_the_prompts(workdir, encoded):
    config = from_json(workdir / "config.json")
    mesh = make_mesh(1)
    run = load_start(open_start(workdir), mesh, config)
    encoder = encoder_of(run.model, run.variables, run.tokenizer, mesh)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    width = run.model.variant.features
    bias = np.eye(10)[7]
    head = Classifier(names, np.zeros((10, width)), bias, False, "linear head")
    evaluation = evaluate(config, encoder, head=head)
    assert evaluation["sets"]["data"]["classifier"] == "linear head" and encoded["texts"] == 0
    assert evaluation["figures"]["asr"]["value"] == 1.0
    assert evaluation["figures"]["ca"]["count"] == 400 - evaluation["figures"]["asr"]["of"]
    other = Classifier(names[::-1], np.zeros((10, width)), bias, False, "linear head")
    with pytest.raises(UserError, match="the head's 10 classes are not the 10 of the set"):
        evaluate(config, encoder, head=other)


@pytest.mark.parametrize(("flags", "heartbeat"), [((), 17), (("--config.mesh.heartbeat=23",), 23)])
@pytest.mark.parametrize("job", ["evaluate", "sweep"])
def test_processes_are_joined_with_the_heartbeat_of_the_config(
    job, flags, heartbeat, tmp_path, monkeypatch
):
    """Of the workdir's config, or the config's file, before anything else is done."""

    def begin(_args, seconds):
        raise UserError(f"joined with {seconds}")

    monkeypatch.setattr(f"cleanclip_jax.jobs.{job}.begin", begin)
    config = defaults()
    config.mesh.heartbeat = 17
    (tmp_path / "config.json").write_text(to_json(config))
    (tmp_path / "slow.py").write_text(
        "from cleanclip_jax.config import defaults\n\n\ndef get_config(arg=None):\n"
        "    config = defaults()\n    config.mesh.heartbeat = 17\n    return config\n"
    )
    words = {
        "evaluate": ["evaluate", f"--workdir={tmp_path}"],
        "sweep": [
            *("sweep", f"--config={tmp_path}/slow.py", f"--workdir={tmp_path}/new"),
            "--over=seed=0,1",
        ],
    }
    module = importlib.import_module(f"cleanclip_jax.jobs.{job}")
    with pytest.raises(UserError, match=f"joined with {heartbeat}"):
        module.main([*words[job][1:], *flags])
