"""Against torch as it runs: Hugging Face's CLIPModel at ViT-B/32 size, and the golden models.

Everything in float32; relative is max|difference| / max|reference| of a tensor.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import layers
from helpers.openai_layout import relative
from helpers.torch_files import KINDS, by_path, cleanclip_file, random_values

from cleanclip_jax.models.clip import build, encode_image, encode_text
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.state import Objective, State
from cleanclip_jax.run.step import compute_loss
from cleanclip_jax.start.torch.checkpoint import Checkpoint, open_checkpoint
from cleanclip_jax.start.torch.names import LAYOUTS
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.start.torch.sidecars import folder_files
from cleanclip_jax.start.torch.tensors import to_variables
from cleanclip_jax.start.torch.write import contract, write_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VARIANT = "ViT-B/32"
BATCH = 2
# The keys' biases have no gradient in exact arithmetic: what is there is rounding.
NO_GRADIENT = 1e-6


@pytest.fixture(scope="module")
def random_model():
    """Hugging Face's model of random weights, biases and norms too, and the same weights here."""
    v = VARIANTS[VARIANT]
    said = contract(VARIANT, v, "quick_gelu")
    files = folder_files("huggingface", None, said, v)
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**files["config.json"]))
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim == 1:
                x.add_(torch.randn_like(x) * 0.02)
            elif "embedding" not in name:
                # At the initial size all pictures have nearly the same features, and the gradients
                # of a batch cancel: torch's own are then 1e-4 from those in float64.
                x.mul_(2)
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    return model, tensors, files


@pytest.fixture(params=["quick_gelu", pytest.param("gelu", marks=pytest.mark.faults)])
def pair(random_model, request):
    """Their model with one of both activations, ours, and what joins them."""
    model, tensors, files = random_model
    activation = torch.nn.GELU() if request.param == "gelu" else None
    activation = activation or transformers.activations.QuickGELUActivation()
    for tower in (model.text_model, model.vision_model):
        for layer in tower.encoder.layers:
            layer.mlp.activation_fn = activation
    kinds = {name: str(x.dtype) for name, x in tensors.items()}
    origin = Origin("huggingface", "huggingface", "", kinds, files=files)
    v = VARIANTS[VARIANT]
    checkpoint = Checkpoint(Path("it"), tensors, v, request.param, "", origin)
    variables = to_variables("it", "huggingface", v, tensors)
    return model, checkpoint, build(VARIANT, activation=request.param, scan=True), variables


@pytest.mark.slow
def test_features_logits_and_gradients_of_a_step(pair):
    theirs, checkpoint, model, variables = pair
    images, tokens = layers.random_input(model, seed=1, batch=BATCH)
    theirs.zero_grad()
    found = theirs(
        input_ids=torch.from_numpy(tokens.astype(np.int64)),
        pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        return_loss=True,
    )
    found.loss.backward()
    gradients = {name: x.grad.numpy() for name, x in theirs.named_parameters()}
    gradients = to_variables("it", "huggingface", checkpoint.numbers, gradients)["params"]

    @jax.jit
    def step(params, images, tokens):
        both = {"params": params}
        u, w = encode_image(model, both, images), encode_text(model, both, tokens)
        u, w = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (u, w))
        logits = jnp.exp(params["logit_scale"]) * w @ u.T

        def loss(params):
            objective = Objective({"cross_modal": 1.0})
            state = State(jnp.int32(0), params, {}, None)
            return compute_loss(model, objective, state, images[:, None], tokens[:, None])[0]

        return u, w, logits, *jax.value_and_grad(loss)(params)

    u, w, logits, loss, ours = step(variables["params"], images, tokens)
    assert relative(u, found.image_embeds.detach().numpy()) <= 1e-4
    assert relative(w, found.text_embeds.detach().numpy()) <= 1e-4
    assert relative(logits, found.logits_per_text.detach().numpy()) <= 1e-4
    assert relative(loss, found.loss.detach().numpy()) <= 1e-4
    ours, wanted = by_path(ours), by_path(gradients)
    assert ours.keys() == wanted.keys()
    beyond = {}
    for path, values in wanted.items():
        mine = np.asarray(ours[path])
        if path.endswith("qkv/bias"):
            keys = [x.reshape(3, -1)[1] for x in (mine, values)]
            assert max(np.abs(x).max() for x in keys) <= NO_GRADIENT, path
            mine, values = (np.delete(x.reshape(3, -1), 1, 0) for x in (mine, values))
        if (found_here := relative(mine, values)) > 1e-4:
            beyond[path] = found_here
    assert not beyond


@pytest.mark.faults
@pytest.mark.parametrize("pair", ["quick_gelu"], indirect=True)
def test_layer_by_layer(pair, monkeypatch):
    """The first layer that departs is named, if any does."""
    theirs, checkpoint, _, variables = pair
    monkeypatch.setattr(
        "helpers.torch_reference.load_huggingface", lambda _checkpoint: theirs.eval()
    )
    plain = build(VARIANT, activation=checkpoint.activation)
    found = layers.compare(checkpoint, plain, variables)
    assert [d.layer for d in found if d.layer.startswith("visual/tr")] == [
        f"visual/transformer/blocks_{i}" for i in range(12)
    ]
    assert len(found) == 2 * 12 + 5 and layers.first_departure(found) is None, layers.table(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", pytest.param("rn", marks=pytest.mark.faults)])
def test_a_wrong_layer_is_named(golden, kind, tmp_path):
    """And the golden models agree with the original's architecture in every layer."""
    cleanclip_file(golden, kind, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    variables, model = checkpoint.variables(), build(KINDS[kind])
    found = layers.compare(checkpoint, model, variables)
    assert max(d.relative for d in found) <= 1e-5, layers.table(found)
    tower = variables["params"]["visual"]
    place = tower["layer3_0"]["bn2"] if kind == "rn" else tower["transformer"]["blocks_1"]["proj"]
    place["bias"] = place["bias"] + np.float32(0.1)
    departed = layers.first_departure(layers.compare(checkpoint, model, variables))
    expected = "visual/layer3_0/bn2" if kind == "rn" else "visual/transformer/blocks_1"
    assert departed is not None and departed.layer == expected


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["vit", pytest.param("rn", marks=pytest.mark.faults)])
def test_every_layout_layer_by_layer(kind, layout, activation, tmp_path):
    """What is exported runs in PyTorch (Hugging Face's in transformers) as the model runs here."""
    v = VARIANTS[KINDS[kind]]
    if layout == "huggingface" and not v.patch:
        return
    settings = contract(KINDS[kind], v, activation)
    dest, values = tmp_path / "a.safetensors", random_values(layout, v)
    if layout == "huggingface":
        dest = tmp_path / "folder"
    write_checkpoint(dest, layout, layout, values, None, settings, v)
    checkpoint = open_checkpoint(dest)
    assert checkpoint.activation == activation
    model = build(KINDS[kind], activation=activation)
    differences = layers.compare(checkpoint, model, checkpoint.variables())
    assert layers.first_departure(differences) is None, layers.table(differences)
