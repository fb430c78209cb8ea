"""Layers' impacts and critical units, against InverTune's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import variables

from cleanclip_jax.detect.inversion import mixed
from cleanclip_jax.detect.units import critical_units, impacts, largest
from cleanclip_jax.models.clip import build, encode_image, encode_image_layers


def nhwc(x):
    return jnp.asarray(np.moveaxis(np.asarray(x, np.float32), -3, -1))


def test_the_critical_mask_is_the_originals(golden):
    g = golden("inversion")
    ours = critical_units(g["invertune/clean"], g["invertune/triggered"])
    np.testing.assert_array_equal(ours, g["invertune/critical"])


@pytest.mark.slow
def test_impacts_and_critical_units_of_a_resnet_are_the_originals(golden):
    g, towers, model = golden("inversion"), variables(golden, "rn"), build("RN-test")
    params = {
        "mask": nhwc(g["invertune/tuning/mask"]),
        "pattern": nhwc(g["invertune/tuning/trigger"]),
    }
    layers_of = jax.jit(lambda x: encode_image_layers(model, towers, x)[1])
    shown = mixed(params, nhwc(golden("rn_three_steps")["images_nchw"]))
    clean, triggered = (
        {name: np.asarray(layer.mean(0)) for name, layer in layers_of(x).items()}
        for x in (shown.clean, shown.triggered)
    )
    impact = impacts(clean, triggered)
    np.testing.assert_allclose(list(impact.values()), g["invertune/tuning/impacts"], rtol=1e-5)
    chosen = largest(impact, 3)
    assert chosen == tuple(f"layer{i}" for i in g["invertune/tuning/critical_layers"])
    differing = 0
    for name in chosen:
        ours = critical_units(clean[name], triggered[name])
        original = np.moveaxis(g[f"invertune/tuning/neurons_{name[-1]}"], 0, -1)
        differing += int((ours != original).sum())
    # Its k-means ends beside the best cut.
    assert differing <= 15


def test_equal_values_have_no_upper_cluster():
    assert not critical_units(np.ones((2, 3)), np.zeros((2, 3))).any()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ViT-test"])
def test_layers_change_no_features_and_no_parameter(golden, variant):
    kind = variant[:-5].lower()
    towers, model = variables(golden, kind), build(variant)
    images = nhwc(golden(f"{kind}_features")["images_nchw"][:2])
    features, layers, _ = encode_image_layers(model, towers, images)
    np.testing.assert_array_equal(features, encode_image(model, towers, images))
    vit = kind == "vit"
    assert list(layers) == (["block1", "block2"] if vit else [f"layer{i}" for i in range(1, 5)])
    again, others, _ = encode_image_layers(model.computed(scan=True, remat=True), towers, images)
    np.testing.assert_allclose(again, features, rtol=1e-5, atol=1e-6)
    assert others.keys() == layers.keys()
