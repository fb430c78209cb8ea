"""Supervised finetuning and the linear probe: what moves, by what gradient, measured by what."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_run import small_config, train, trained

from cleanclip_jax import cli
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import labelled
from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import gathered
from cleanclip_jax.losses.terms import Context, classification, head_logits, init_head
from cleanclip_jax.models.clip import build, encode_image, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.recipes import supervise
from cleanclip_jax.run.state import Fixed, Objective, fresh_state, make_objective
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import make_mesh, place_batch, place_state

CLASSES = 5
MODELS = {
    "vit": VARIANTS["ViT-test"],
    "resnet": replace(VARIANTS["RN-test"], vision_layers=(1,)),
}


def parts(dtype="float32", kind="vit"):
    """A small model, its variables with a head, and a labelled batch."""
    model = build(MODELS[kind], dtype=dtype, param_dtype=dtype)
    variables = init(model, jax.random.key(0))
    head = init_head(jax.random.key(1), model.variant.features, CLASSES, dtype)
    variables = {**variables, "params": {**variables["params"], "head": head}}
    rng = np.random.default_rng(0)
    size = model.variant.image_size
    batch = {
        "images": rng.integers(0, 256, (16, 1, size, size, 3), dtype=np.uint8),
        "tokens": np.zeros((16, 1, model.variant.context_length), np.int32),
        "labels": rng.integers(0, CLASSES, 16).astype(np.int32),
    }
    return model, variables, batch


def stepped(model, variables, batch, trainable, devices=1, rate=0.1):
    mesh = make_mesh(devices)
    optimizer = optax.sgd(rate)
    objective = Objective({"classification": 1.0}, trainable=trainable)
    step = make_step(model, optimizer, lambda _: jnp.float32(rate), objective, mesh=mesh)
    state = place_state(mesh, fresh_state(jax.tree.map(jnp.copy, variables), optimizer, objective))
    state, metrics = step(state, Fixed(), place_batch(mesh, batch))
    return jax.tree.map(np.asarray, (state.params, state.batch_stats, metrics))


def same(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("kind", ["vit", pytest.param("resnet", marks=pytest.mark.slow)])
@pytest.mark.parametrize("trainable", [pytest.param("visual", marks=pytest.mark.slow), "head"])
def test_only_what_is_trained_moves(kind, trainable):
    model, variables, batch = parts(kind=kind)
    old = variables["params"]
    params, stats, metrics = stepped(model, variables, batch, trainable)
    assert same(params["text"], old["text"]) and params["logit_scale"] == old["logit_scale"]
    assert not same(params["head"], old["head"])
    assert same(params["visual"], old["visual"]) == (trainable == "head")
    # A probe's features are those that it will be measured on: of the running statistics.
    assert same(stats, variables.get("batch_stats", {})) == (trainable == "head" or kind == "vit")
    assert {"loss", "classification", "accuracy"} <= metrics.keys()


@pytest.mark.slow
def test_a_probe_steps_down_the_gradient_of_logistic_regression():
    model, variables, batch = parts()
    zero = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    variables["params"]["head"] = zero
    params, _, metrics = stepped(model, variables, batch, "head", rate=1.0)
    pixels = batch["images"][:, 0].astype(np.float32) / 255
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    features = np.asarray(encode_image(model, variables, jnp.asarray((pixels - mean) / deviation)))
    wrong = np.full((16, CLASSES), 1 / CLASSES) - np.eye(CLASSES)[batch["labels"]]
    np.testing.assert_allclose(params["head"]["kernel"], -features.T @ wrong / 16, atol=2e-5)
    np.testing.assert_allclose(params["head"]["bias"], -wrong.mean(0), atol=1e-6)
    assert metrics["loss"] == pytest.approx(np.log(CLASSES), rel=1e-5)


@pytest.mark.slow
def test_one_device_equals_eight():
    with jax.enable_x64(True):
        model, variables, batch = parts("float64")
        one, eight = (stepped(model, variables, batch, "visual", n) for n in (1, 8))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_a_head_sees_features_as_it_is_asked_to():
    head = {"kernel": jnp.eye(2), "bias": jnp.array([1.0, 0.0])}
    features = jnp.array([[3.0, 4.0]])
    np.testing.assert_allclose(head_logits(head, features, False), [[4.0, 4.0]])
    np.testing.assert_allclose(head_logits(head, features, True), [[1.6, 0.8]], rtol=1e-6)


def test_classification_is_the_mean_cross_entropy_of_the_labels():
    head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    features = {"image": jnp.array([[0.0, np.log(3.0)], [0.0, 0.0]])}
    labels, metrics = jnp.array([1, 0]), {}
    context = Context(
        features,
        features,
        gathered({}, jnp.ones(())),
        {"head": head},
        labels,
        None,
        jnp.int32(0),
        metrics,
    )
    loss, memory = classification(context)
    expected = (np.log(4 / 3) + np.log(2)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6) and memory is None
    assert float(metrics["accuracy"]) == 1.0


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return str(trained(tmp_path_factory.mktemp("start") / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param("supervised", marks=pytest.mark.slow), "probe"])
def test_a_run_is_trained_taken_up_and_measured_through_its_head(start, tmp_path, capsys, stage):
    config = small_config("cleanclip")
    config.start = start
    supervise(config, stage == "probe")
    train(config, tmp_path / "run")
    longer = small_config("cleanclip")
    longer.start = start
    supervise(longer, stage == "probe")
    train(longer, tmp_path / "run")  # done already: nothing is left to do
    assert cli.main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
    found = json.loads((tmp_path / "run/evaluation.json").read_text())
    (facts,) = found["sets"].values()
    assert facts["classifier"] == "linear head on un-normalised features"
    assert {"ca", "asr", "asr_all", "pa"} <= found["figures"].keys()
    # A run that starts from it starts from its towers.
    again = small_config("cleanclip")
    again.start = str(tmp_path / "run")
    train(again, tmp_path / "again")
    (tmp_path / "run/head.json").write_text(
        (tmp_path / "run/head.json").read_text().replace("seven", "sieben")
    )
    capsys.readouterr()
    assert cli.main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "the head's 10 classes are not" in capsys.readouterr().err


def test_records_without_a_class_are_left_out(tmp_path):
    lines = ["image,kind", *(f"{i}.png,{'' if i % 3 == 0 else 'ab'[i % 2]}" for i in range(9))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    table = {"kind": "csv", "path": str(tmp_path / "pairs.csv"), "caption": None}
    source = labelled(open_source({**table, "class_name": "kind"}))
    assert len(source) == 6 and source.labels().tolist() == [1, 0, 0, 1, 1, 0]
    assert source.where(2) == "pairs.csv row 5" and source.class_names == ("a", "b")
    with pytest.raises(UserError, match=r"config\.data\.train has no classes"):
        labelled(open_source(table))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("trainable", "heads", "Did you mean 'head'"), ("trainable", "head", "is head, which")],
)
def test_a_wrong_config_is_one_line(key, value, message):
    config = small_config()
    config.train[key] = value
    with pytest.raises(UserError, match=message):
        make_objective(config)
