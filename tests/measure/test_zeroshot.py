"""Zero-shot classifiers: prompts normalised, averaged and normalised again."""

import numpy as np
from helpers.small_pictures import NAMES

from cleanclip_jax.measure import zeroshot
from cleanclip_jax.measure.zeroshot import text_classifier, unit

TEMPLATES = ("a {}.", "the digit {}, again {}")


def test_templates_are_normalised_averaged_and_normalised_again(make_encoder, monkeypatch):
    encoder = make_encoder()
    monkeypatch.setattr(zeroshot, "NAMES_AT_ONCE", 2)  # two batches of three names
    ours = text_classifier(encoder, NAMES, TEMPLATES)
    prompts = [t.replace("{}", name) for name in NAMES for t in TEMPLATES]
    features = unit(encoder.text_features(prompts))
    wanted = unit(features.reshape(4, 2, -1).mean(1))
    np.testing.assert_allclose(ours.weights, wanted, atol=1e-6)
    assert (ours.weights[1] == ours.weights[3]).all()
    assert ours.names == NAMES and ours.normalised
