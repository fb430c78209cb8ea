"""BDetCLIP: the original's words and scores, thresholds, one picture at a time."""

import json
from collections import defaultdict
from typing import ClassVar

import numpy as np
import pytest
from helpers.made_pairs import MadeEncoder

from cleanclip_jax.detect.bdetclip import (
    SENTENCES,
    descriptions,
    distracted,
    make_detector,
    threshold_of,
    with_sentence,
)
from cleanclip_jax.detect.roc import auroc
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.prompts import fill


class Recorded(MadeEncoder):
    """Gives recorded features for texts."""

    recorded: ClassVar[dict[str, list[np.ndarray]]] = {}

    def text_features(self, texts):
        return np.stack([self.recorded[text].pop(0) for text in texts])


def test_golden(golden, made_encoder):
    arrays = golden("detectors_a")
    params, benign, malignant = (
        json.loads(arrays[f"bdetclip/a/{name}"].tobytes())
        for name in ("params", "benign_texts", "malignant_texts")
    )
    classes, rows = params["classes"], defaultdict(list)
    made = [
        with_sentence(fill(template, name), sentence)
        for name, sentence in zip(classes, params["sentences"], strict=True)
        for template in params["templates"]
    ]
    assert made == [text.rstrip("\n") for text in malignant]  # whose ends of line came along
    for texts, name in ((benign, "benign"), (made, "malignant")):
        features = arrays[f"bdetclip/a/{name}"].astype(np.float32).reshape(len(texts), -1)
        for text, row in zip(texts, features, strict=True):
            rows[text].append(row)
    plain = made_encoder()
    encoder = Recorded(plain.model, plain.variables, plain.tokenizer, plain.mesh)
    Recorded.recorded = rows
    several = [
        dict(zip(classes, np.reshape(t, (12, -1)).tolist(), strict=True)) for t in (benign, made)
    ]
    detector = make_detector(encoder, *several)
    images = arrays["bdetclip/a/image"].astype(np.float32)
    np.testing.assert_allclose(-detector.scores(images), arrays["bdetclip/a/omega"], atol=1e-5)
    poisoned = arrays["bdetclip/a/poisoned"]
    found = detector.scores(images)
    assert auroc(found[poisoned], found[~poisoned])[0] == pytest.approx(0.877, abs=0.001)


def test_texts_of_each_class(tmp_path):
    classes, templates = ["cat", "dog"], ["a photo of a {}.", "my {}"]
    assert descriptions(classes, templates)["dog"] == ["a photo of a dog.", "my dog"]
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"cat": ["it purrs"], "dog": ["it barks"], "cow": ["moo"]}))
    assert descriptions(classes, templates, path) == {"cat": ["it purrs"], "dog": ["it barks"]}
    for content in ('{"cat": ["it purrs"]}', '{"cat": "it purrs"}', "[]", '{"cat": [], "dog": []}'):
        path.write_text(content)
        with pytest.raises(UserError) as error:
            descriptions(classes, templates, path)
        assert "texts.json" in str(error.value) and "\n" not in str(error.value)
    texts = distracted(classes, templates)
    assert texts == distracted(classes, templates) and list(texts) == classes
    assert texts["cat"][0].startswith("a photo of a cat, ")
    assert all(
        one == one.lower() and '"' not in one for several in texts.values() for one in several
    )
    drawn = {distracted(classes, templates, seed)["cat"][0] for seed in range(30)}
    assert len(drawn) > len(SENTENCES) // 2


def test_a_picture_of_any_size(made_encoder):
    texts = ({"cat": ["a cat"]}, {"cat": ["a cat, and rain"]})
    detector = make_detector(made_encoder(), *texts)
    picture = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    features = detector.encoder.image_features(picture[None], 1)
    assert detector.flagged(picture) == pytest.approx(float(detector.scores(features)[0]))
    assert np.isfinite(detector.flagged(np.zeros((50, 31, 3), np.uint8) + 7))


def test_the_threshold_lets_no_more_than_its_share_by():
    clean = np.array([0.0, 1.0, 2.0, 2.0, 3.0])
    for share, flagged in ((0.01, 0), (0.2, 1), (0.4, 1), (0.6, 3)):
        assert (clean >= threshold_of(clean, share)).sum() == flagged
