"""`cleanclip_jax.load`, and runs that begin with, or are measured of, a PyTorch checkpoint."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import relative
from helpers.small_run import small_config, train
from helpers.torch_files import KINDS, by_path, cleanclip_file, random_values, tensors_of
from safetensors.numpy import save_file

import cleanclip_jax
from cleanclip_jax import cli
from cleanclip_jax.config import to_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build, encode_image, encode_text, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.run.settings import facts_of, resolve
from cleanclip_jax.start.head import Head
from cleanclip_jax.start.start import TorchStart, load_weights
from cleanclip_jax.start.store import Store
from cleanclip_jax.start.torch.origin import load_origin
from cleanclip_jax.start.torch.tensors import to_tensors, to_variables
from cleanclip_jax.start.torch.write import contract, write_checkpoint
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.normalise import normalise
from cleanclip_jax.workdir import Workdir

VIT = VARIANTS["ViT-test"]


@pytest.fixture(scope="module")
def tokenizer():
    words = (f"a {a}{b}ly {a}{b}{c}ing" for a in "abcdefgh" for b in "klmnop" for c in "xyz")
    return Tokenizer.train(words, 300, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_the_originals_file(golden, tmp_path, kind):
    pytest.importorskip("torch")
    cleanclip_file(golden, kind, tmp_path / "model.pt")
    wanted = golden(f"{kind}_features")
    model, variables = cleanclip_jax.load(tmp_path / "model.pt")
    images = jnp.asarray(wanted["images_nchw"].transpose(0, 2, 3, 1))
    tokens = jnp.asarray(wanted["tokens"], jnp.int32)
    image, text = (jax.jit(partial(encode, model)) for encode in (encode_image, encode_text))
    assert relative(image(variables, images), wanted["image_features_eval"]) <= 1e-5
    assert relative(text(variables, tokens), wanted["text_features"]) <= 1e-5


@pytest.mark.parametrize("layout", ["openai", "open_clip", "open_clip_text", "huggingface"])
def test_every_layout_is_one_model(golden, tmp_path, layout):
    """From safetensors, which need no PyTorch, in half precision: the variables are float32."""
    theirs = golden("vit_state_dict")
    flat = by_path(to_variables("it", "openai", VIT, theirs))
    tensors = to_tensors(layout, VIT, flat, dtype="float16")
    save_file(tensors, tmp_path / "a.safetensors")
    model, variables = cleanclip_jax.load(str(tmp_path / "a.safetensors"), activation="gelu")
    assert model.compute.activation == "gelu" and model.variant == VIT
    found = by_path(variables)
    assert found.keys() == flat.keys() and {str(x.dtype) for x in found.values()} == {"float32"}
    for path, x in flat.items():
        np.testing.assert_array_equal(found[path], x.astype(np.float16).astype(np.float32))


@pytest.mark.slow
def test_a_run_is_loaded_with_its_own_activation_and_exported(tmp_path, capsys, caplog, tokenizer):
    torch = pytest.importorskip("torch")
    workdir = tmp_path / "run"
    tokenizer.save(workdir / "tokenizer.json")
    (workdir / "config.json").write_text(to_json(resolve(small_config())))
    wanted = init(build("ViT-test-one", image_size=16, context_length=12), jax.random.key(1))
    with Store(workdir / "checkpoints") as store:
        # A run may have trained a classifier on top, which no format of PyTorch's has a place for.
        Head(("a", "b", "c"), normalised=False).save(Workdir(workdir))
        params = {**wanted["params"], "head": {"kernel": jnp.ones((48, 3)), "bias": jnp.ones(3)}}
        store.save(3, {"params": params, "batch_stats": {}}, {"step": jnp.asarray(3)})
    with caplog.at_level("WARNING"):
        model, variables = cleanclip_jax.load(workdir)
    assert "its head of 3 classes is left out" in caplog.text
    assert (model.variant.image_size, model.variant.vocab_size) == (16, 300)
    assert model.compute.activation == "quick_gelu"
    jax.tree.map(np.testing.assert_array_equal, variables["params"], wanted["params"])
    with pytest.raises(UserError, match="was trained with quick_gelu, not gelu"):
        cleanclip_jax.load(workdir, activation="gelu")
    with pytest.raises(UserError, match="is no workdir of a run"):
        cleanclip_jax.load(tmp_path / "absent")
    assert cli.main(["convert", str(workdir), f"{workdir}.pt"]) == 0
    assert "not carried over: the run's classifier" in capsys.readouterr().out
    out = torch.load(f"{workdir}.pt", weights_only=True)
    assert out["name"] == "run" and {x.dtype for x in out["state_dict"].values()} == {torch.float32}


@pytest.fixture
def checkpoint(tmp_path):
    """The config of a run that begins with a Hugging Face folder."""
    values = random_values("huggingface", VIT)
    said = contract("ViT-test", VIT, "gelu")
    write_checkpoint(tmp_path / "hf", "huggingface", "huggingface", values, None, said, VIT)
    # A file of this name comes along there, and is none of ours.
    (tmp_path / "hf/tokenizer.json").write_text("{}")
    config = small_config("cleanclip")
    config.start = str(tmp_path / "hf")
    config.train.steps = config.train.checkpoint_every = 1
    return config


@pytest.mark.slow
def test_training_begins_with_a_checkpoint(checkpoint, tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(TorchStart, "tokenizer", tokenizer)
    before = dict(by_path(load_weights(tmp_path / "hf")[1]))
    checkpoint.optimizer.learning_rate = 1e-30
    config = train(checkpoint, tmp_path / "cleaned")
    assert (config.model.variant, config.model.activation) == ("ViT-test", "gelu")
    assert config.model.image_size == 32 and config.text.context_length == 16
    model, variables = cleanclip_jax.load(tmp_path / "cleaned")
    after = by_path(variables)
    assert model.compute.activation == "gelu"
    assert all(np.allclose(before[path], after[path], atol=1e-6) for path in before)
    # The way back is known without the checkpoint.
    origin = load_origin(tmp_path / "cleaned")
    assert origin is not None and origin.format == "huggingface" and "config.json" in origin.files


def test_a_run_and_its_checkpoint_may_not_contradict(checkpoint, tmp_path):
    checkpoint.model.variant = "RN-test"
    with pytest.raises(UserError, match=r"'RN-test', but the start run .* has 'ViT-test'"):
        train(checkpoint, tmp_path / "cleaned")
    checkpoint.model.variant = None
    with pytest.raises(UserError, match=r"vocabulary of 300 that .*--tokenizer=tokenizer\.json"):
        train(checkpoint, tmp_path / "cleaned")
    assert not (tmp_path / "cleaned").exists()


def test_a_checkpoint_is_measured_as_a_run_is(checkpoint, tmp_path, monkeypatch, capsys, tokenizer):
    data = small_config().evaluation.data.to_dict()
    command = ["evaluate", f"--workdir={tmp_path}/hf", f"--config.evaluation.data={data!r}"]
    output = f"--output={tmp_path}/found.json"
    assert cli.main(command) == 2
    assert "name the file to write with --output" in capsys.readouterr().err
    assert cli.main([*command, output]) == 2
    assert "convert the checkpoint with --tokenizer" in capsys.readouterr().err
    assert cli.main([*command, output, "--config.optimizer.beta1=1"]) == 2
    monkeypatch.setattr(TorchStart, "tokenizer", tokenizer)
    assert cli.main([*command, output, "--config.model.activation=quick_gelu"]) == 0
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert figures["ca"]["of"] == 400
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    ]


def test_a_run_begins_with_the_key_that_is_named(tmp_path, monkeypatch, capsys, tokenizer):
    torch = pytest.importorskip("torch")
    states = [tensors_of(random_values("open_clip", VIT, seed)) for seed in (0, 1)]
    file, found = tmp_path / "a.pt", []
    torch.save({"state_dict": states[0], "average": states[1]}, file)

    def logit_scale(start):
        return start._checkpoint.variables()["params"]["logit_scale"]

    def measured(start, *_):
        found.append(logit_scale(start))
        return {"evaluation": {}, "figures": {}}

    monkeypatch.setattr("cleanclip_jax.jobs.evaluate.measure_run", measured)
    monkeypatch.setattr("cleanclip_jax.jobs.evaluate.as_text", str)
    monkeypatch.setattr("cleanclip_jax.run.checked.make_step", lambda *_, **__: measured)
    monkeypatch.setattr(TorchStart, "tokenizer", tokenizer)
    config, facts = small_config("cleanclip"), []
    config.start = str(file)
    for config.start_key, state in ((None, states[0]), ("average", states[1])):
        run = check_run(config, Workdir(tmp_path / "run"))
        assert logit_scale(run.start) == state["logit_scale"].numpy()
        facts.append(facts_of(run.config, run.source, None, run.start))
    assert facts[0] != facts[1]
    command = ["evaluate", f"--workdir={file}", f"--output={tmp_path}/x.json"]
    assert cli.main([*command, "--config.start_key=average"]) == 0
    assert found == [states[1]["logit_scale"].numpy()]
    assert cli.main([*command, "--config.start_key=averaeg"]) == 2
    assert "a.pt: key: unknown 'averaeg'. Did you mean 'average'" in capsys.readouterr().err
    config.start = None
    with pytest.raises(UserError, match=r"config\.start_key is set, but not config\.start"):
        check_run(config, Workdir(tmp_path / "run"))
    with pytest.raises(UserError, match="is no PyTorch checkpoint, and has no key 'x'"):
        load_weights(tmp_path, key="x")


def test_what_goes_with_a_model(tmp_path, tokenizer, caplog):
    """Pictures and captions in the form that it takes, and what nobody says of it, said."""
    save_file(random_values("open_clip", VIT), tmp_path / "a.safetensors")
    model, variables = cleanclip_jax.load(tmp_path / "a.safetensors")
    assert model.compute.activation == "gelu"
    assert "nothing says which activation it was trained with: gelu is taken" in caplog.text
    pictures = [np.full((40, 50, 3), 128, np.uint8), np.zeros((32, 32, 3), np.uint8)]
    images = cleanclip_jax.preprocess(model, pictures)
    assert (images.shape, images.dtype) == ((2, 32, 32, 3), jnp.float32)
    np.testing.assert_allclose(images[1, 0, 0], normalise(jnp.zeros((1, 1, 3)))[0, 0], atol=1e-6)
    with pytest.raises(UserError, match=r"floating point, not uint8: .*cleanclip_jax\.preprocess"):
        encode_image(model, variables, jnp.asarray(pictures[1][None]))
    with pytest.raises(UserError, match=r"--tokenizer=tokenizer\.json"):
        cleanclip_jax.tokenizer(tmp_path / "a.safetensors")
    tokenizer.save(tmp_path / "tokenizer.json")
    flag = f"--tokenizer={tmp_path}/tokenizer.json"
    assert cli.main(["convert", f"{tmp_path}/a.safetensors", f"{tmp_path}/run", flag]) == 0
    rows = cleanclip_jax.tokenizer(tmp_path / "run")(["an akxing"])
    np.testing.assert_array_equal(rows, tokenizer(["an akxing"]))


def test_how_captions_are_cut_is_the_runs_choice(checkpoint, tmp_path, tokenizer):
    """As for a checkpoint itself, so for the workdir that it was converted to."""
    tokenizer.save(tmp_path / "tokenizer.json")
    flag = f"--tokenizer={tmp_path}/tokenizer.json"
    assert cli.main(["convert", f"{tmp_path}/hf", f"{tmp_path}/s", flag]) == 0
    checkpoint.text.keep_end, checkpoint.start = False, str(tmp_path / "s")
    run = check_run(checkpoint, Workdir(tmp_path / "new"))
    assert run.config.text.keep_end is False and run.tokenizer.keep_end is False
