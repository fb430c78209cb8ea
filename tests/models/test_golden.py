"""Both encoders against the original's outputs (tests/golden, float32 on a processor)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from helpers.openai_layout import flat, relative, variables
from helpers.torch_files import by_path

from cleanclip_jax.models import clip
from cleanclip_jax.models.clip import build

encode_image, encode_text, encode_image_train = (
    jax.jit(function, static_argnums=0)
    for function in (clip.encode_image, clip.encode_text, clip.encode_image_train)
)
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
    ours, theirs = by_path(stats), by_path(wanted)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert relative(ours[name], values) <= 1e-3, name


def test_the_resnet_has_statistics_to_compare(golden):
    assert len(flat(golden("rn_features"), "after_train_forward/")) == 44


def test_normalisation(golden):
    from cleanclip_jax.views.normalise import normalise

    g = golden("normalise")
    ours = np.asarray(normalise(jnp.asarray(g["x"])[None])[0])
    assert relative(ours, g["y"].transpose(1, 2, 0)) <= 1e-6
