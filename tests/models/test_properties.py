"""What must hold of the encoders whatever their weights are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.models import clip
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import VARIANTS

KEY = jax.random.key(0)
# Two stages of one block: compiling convolutions is what these tests spend their time on.
SMALL_RESNET = replace(VARIANTS["RN-test"], vision_layers=(1, 1), image_size=32)
END = 299


@pytest.fixture(scope="module")
def resnet():
    model = build(SMALL_RESNET)
    return model, init(model, KEY)


@pytest.fixture(scope="module")
def vit():
    model = build("ViT-test")
    return model, init(model, KEY)


def encode(function):
    """An encoder compiled: op by op a ResNet takes a minute."""
    return jax.jit(function, static_argnums=0)


encode_image, encode_text = encode(clip.encode_image), encode(clip.encode_text)
encode_image_train = encode(clip.encode_image_train)


def pictures(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 32, 32, 3)), jnp.float32)


def test_text_is_causal(vit):
    """What follows the end of text changes nothing, and neither does cutting it off."""
    model, weights = vit
    tokens = jnp.asarray([[298, 5, 7, END, 0, 0, 0, 0], [298, 9, END, 0, 0, 0, 0, 0]])
    after = tokens.at[0, 4:].set(jnp.asarray([3, 17, 200, 1])).at[1, 3:].set(11)
    features = encode_text(model, weights, tokens)
    np.testing.assert_array_equal(features, encode_text(model, weights, after))
    np.testing.assert_allclose(features, encode_text(model, weights, tokens[:, :4]), atol=1e-5)
    before = tokens.at[0, 1].set(6)
    assert np.abs(encode_text(model, weights, before) - features)[0].max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"scan": True}, marks=pytest.mark.faults),
        pytest.param({"remat": True}, marks=pytest.mark.faults),
        {"scan": True, "remat": True},
    ],
)
def test_scan_and_remat_change_nothing(vit, options):
    plain, weights = vit
    changed = build("ViT-test", **options)
    shapes = jax.tree.map(jnp.shape, weights)
    assert jax.tree.map(jnp.shape, init(changed, KEY)) == shapes
    tokens = jnp.asarray([[298, 5, 7, END], [298, 9, END, 0]])
    images = pictures(2)

    def loss(model, params):
        variables = {"params": params}
        image, text = encode_image(model, variables, images), encode_text(model, variables, tokens)
        return (image * text).sum()

    ours = jax.jit(jax.grad(lambda params: loss(plain, params)))(weights["params"])
    theirs = jax.jit(jax.grad(lambda params: loss(changed, params)))(weights["params"])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_remat_changes_nothing_in_a_resnet(resnet):
    plain, weights = resnet
    changed = build(SMALL_RESNET, remat=True)

    def loss(model, params):
        variables = {"params": params, "batch_stats": weights["batch_stats"]}
        features, stats = encode_image_train(model, variables, pictures(4))
        return jnp.square(features).sum(), stats

    for get in (plain, changed):
        assert jax.tree.structure(init(get, KEY)) == jax.tree.structure(weights)
    ours = jax.jit(jax.grad(lambda p: loss(plain, p), has_aux=True))(weights["params"])
    theirs = jax.jit(jax.grad(lambda p: loss(changed, p), has_aux=True))(weights["params"])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_groups_see_their_own_statistics_only(resnet):
    model, weights = resnet
    grouped = build(SMALL_RESNET, bn_groups=2)
    a, b = pictures(4, 1), pictures(4, 2)
    together, stats = encode_image_train(grouped, weights, jnp.concatenate([a, b]))
    alone_a, stats_a = encode_image_train(model, weights, a)
    alone_b, stats_b = encode_image_train(model, weights, b)
    np.testing.assert_allclose(together, jnp.concatenate([alone_a, alone_b]), atol=1e-5)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, stats_a, stats_b)
    for ours, wanted in zip(jax.tree.leaves(stats), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    joint, _ = encode_image_train(model, weights, jnp.concatenate([a, b]))
    assert np.abs(joint - together).max() > 1e-3


def test_frozen_statistics_are_those_of_evaluation(resnet):
    _, weights = resnet
    frozen = build(SMALL_RESNET, bn_frozen=True)
    features, stats = encode_image_train(frozen, weights, pictures(4))
    np.testing.assert_array_equal(features, encode_image(frozen, weights, pictures(4)))
    jax.tree.map(np.testing.assert_array_equal, stats, weights["batch_stats"])


@pytest.mark.parametrize("kind", ["RN-test", "ViT-test"])
def test_bfloat16_computes_low_and_keeps_high(kind):
    model = build(kind, dtype="bfloat16")
    weights = jax.eval_shape(lambda: init(model, KEY))
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype("float32")}
    images = jnp.ones((2, *[model.variant.image_size] * 2, 3))
    image, _ = jax.eval_shape(lambda w: encode_image_train(model, w, images), weights)
    assert image.dtype == jnp.float32
    low = str(jax.make_jaxpr(lambda w: clip.encode_image(model, w, images))(weights))
    assert "bf16" in low


def test_initialisation_is_the_published_one():
    weights = init(build("ViT-32px/8", vocab_size=1000, context_length=77), KEY)["params"]
    assert float(weights["logit_scale"]) == pytest.approx(np.log(1 / 0.07))
    block, layers, width = weights["text"]["transformer"]["blocks_0"], 3, 128
    residual = width**-0.5 * (2 * layers) ** -0.5
    for values, std in [
        (weights["text"]["token_embedding"], 0.02),
        (weights["text"]["positions"], 0.01),
        (block["qkv"]["kernel"], width**-0.5),
        (block["out"]["kernel"], residual),
        (block["proj"]["kernel"], residual),
        (block["fc"]["kernel"], (2 * width) ** -0.5),
    ]:
        assert float(jnp.std(values)) == pytest.approx(std, rel=0.03)
    resnet = init(build("RN-test"), KEY)["params"]["visual"]
    assert not resnet["layer2_1"]["bn3"]["scale"].any() and resnet["layer2_1"]["bn2"]["scale"].all()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("RN50", 102.0),
        pytest.param("RN101", 119.7, marks=pytest.mark.faults),
        pytest.param("RN50x4", 178.3, marks=pytest.mark.faults),
        pytest.param("RN50x16", 291.0, marks=pytest.mark.faults),
        ("ViT-B/32", 151.3),
        ("ViT-B/16", 149.6),
        ("ViT-L/14", 427.6),
    ],
)
def test_variants_have_the_published_sizes(name, millions):
    """Parameters in millions, of OpenAI's models (their towers and embeddings together)."""
    shapes = jax.eval_shape(lambda: init(build(name), KEY))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_unknown_names_say_what_is_near():
    with pytest.raises(UserError, match=r"'ViT-B-32'.*'ViT-B/32'"):
        build("ViT-B-32")
    with pytest.raises(UserError, match="gelu"):
        build("RN50", activation="quickgelu")
    with pytest.raises(UserError, match="multiple of 32"):
        build("ViT-B/32", image_size=225)
    assert all(v.text_width % v.text_heads == 0 for v in VARIANTS.values())
