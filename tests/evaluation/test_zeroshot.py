"""Zero-shot ranking: prompt ensembles, ties, ragged batches, one device and eight."""

import jax
import numpy as np
import pytest

from cleanclip_jax.data.pipeline import EvaluationBatch
from cleanclip_jax.device.normalise import normalise
from cleanclip_jax.evaluation.zeroshot import make_ranker, rank_all, text_classifier
from cleanclip_jax.models.clip import build, encode_image, encode_text, init
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.text.tokenizer import Tokenizer

NAMES = ("zero", "one", "two", "one")  # a name may occur twice
TEMPLATES = ("a {}.", "the digit {}, again {}")


@pytest.fixture(scope="module")
def clip():
    tokenizer = Tokenizer.train(["a zero.", "the digit one, again", "two"], 300, 16)
    model = build("ViT-test", vocab_size=tokenizer.vocab_size)
    return model, init(model, jax.random.key(0)), tokenizer


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_templates_are_normalised_averaged_and_normalised_again(clip):
    model, variables, tokenizer = clip
    ours = text_classifier(model, variables, tokenizer, NAMES, TEMPLATES, batch_size=3)
    prompts = [t.replace("{}", name) for name in NAMES for t in TEMPLATES]
    features = unit(
        np.asarray(encode_text(model, variables, jax.numpy.asarray(tokenizer(prompts))))
    )
    wanted = unit(features.reshape(4, 2, -1).mean(1))
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_ranks_count_who_comes_before(clip, devices):
    model, variables, tokenizer = clip
    classifier = text_classifier(model, variables, tokenizer, NAMES, TEMPLATES)
    rank = make_ranker(model, variables, classifier, make_mesh(devices))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    classes = np.stack([rng.integers(0, 4, 8), np.full(8, 3)], 1)
    ranks = rank(images, classes)
    features = unit(
        np.asarray(encode_image(model, variables, normalise(jax.numpy.asarray(images))))
    )
    # A stable sort puts the lower index first among equals: class 3 never before its twin 1.
    order = np.argsort(-(features @ classifier.T).round(6), axis=1, kind="stable")
    wanted = np.argsort(order, axis=1)[np.arange(8)[:, None], classes]
    np.testing.assert_array_equal(ranks, wanted)
    assert (ranks[:, 1] > 0).all()


def test_a_ragged_last_batch_is_counted_once():
    batches: list[EvaluationBatch] = [
        {
            "images": np.full((size, 2, 2, 3), start, np.uint8),
            "index": np.arange(start, start + size),
            "label": np.arange(start, start + size),
        }
        for start, size in ((0, 4), (4, 4), (8, 1))
    ]
    shapes = []

    def rank(images, classes):
        shapes.append(images.shape)
        return classes

    labels, ranks = rank_all(rank, batches, 4, target=7)
    np.testing.assert_array_equal(labels, np.arange(9))
    np.testing.assert_array_equal(ranks, np.stack([np.arange(9), np.full(9, 7)], 1))
    assert set(shapes) == {(4, 2, 2, 3)}
