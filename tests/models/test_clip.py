"""Both encoders against the original's outputs (tests/golden, float32 on a processor)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.encoders import encode_image, encode_image_train, encode_text
from helpers.openai_layout import flat, relative, variables

from cleanclip_jax.errors import UserError
from cleanclip_jax.models import clip
from cleanclip_jax.models.clip import build, init

KEY = jax.random.key(0)
KINDS = {"rn": "RN-test", "vit": "ViT-test"}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def features(golden, kind):
    return golden(f"{kind}_features")


def pictures(features):
    return jnp.asarray(features["images_nchw"].transpose(0, 2, 3, 1))


def test_features_in_evaluation_mode(golden, kind, features):
    model, weights = build(KINDS[kind]), variables(golden, kind)
    tokens = jnp.asarray(features["tokens"], jnp.int32)
    image = encode_image(model, weights, pictures(features))
    assert relative(image, features["image_features_eval"]) <= 1e-5
    assert relative(encode_text(model, weights, tokens), features["text_features"]) <= 1e-5


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"scan": True}])
def test_features_and_statistics_in_training_mode(golden, kind, features, options):
    model, weights = build(KINDS[kind], **options), variables(golden, kind)
    image, stats = encode_image_train(model, weights, pictures(features))
    assert relative(image, features["image_features_train"]) <= 1e-5
    wanted = unflatten_dict(flat(features, "after_train_forward/"), sep="/").get("batch_stats", {})
    ours, theirs = flatten_dict(stats, sep="/"), flatten_dict(wanted, sep="/")
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert relative(ours[name], values) <= 1e-3, name


def test_the_resnet_has_statistics_to_compare(golden):
    assert len(flat(golden("rn_features"), "after_train_forward/")) == 44


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


@pytest.mark.slow
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


def test_unknown_names_say_what_is_near():
    with pytest.raises(UserError, match=r"'ViT-B-32'.*'ViT-B/32'"):
        build("ViT-B-32")
    with pytest.raises(UserError, match="gelu"):
        build("RN50", activation="quickgelu")
    with pytest.raises(UserError, match="multiple of 32"):
        build("ViT-B/32", image_size=225)
