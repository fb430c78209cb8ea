"""Captions cut to what is needed of them: the same loss and gradients, in every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.models.clip import build, init
from cleanclip_jax.run import lengths
from cleanclip_jax.run.lengths import Cut, longest
from cleanclip_jax.run.state import Objective, State
from cleanclip_jax.run.step import compute_loss
from cleanclip_jax.sharding import make_mesh

CONTEXT = 16


def some_tokens(ends, context=CONTEXT, end=299):
    """Captions that end at these places, padded with 0."""
    tokens = np.zeros((len(ends), 1, context), np.int32)
    for row, at in zip(tokens[:, 0], ends, strict=True):
        row[:at] = np.arange(1, at + 1)
        row[at] = end
    return tokens


@pytest.fixture(scope="module")
def loss_and_gradients():
    model = build("ViT-test-one", image_size=8, dtype="float64", param_dtype="float64")
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8, 3))
    with jax.enable_x64(True):
        params = init(model, jax.random.key(0))["params"]

    def compute(tokens, gradients=True):
        with jax.enable_x64(True):
            objective = Objective({"cross_modal": 1.0})
            pairs = jnp.asarray(images), jnp.asarray(tokens)

            def loss(params):
                return compute_loss(
                    model, objective, State(jnp.int32(0), params, {}, None), *pairs
                )[0]

            found = jax.jit(jax.value_and_grad(loss) if gradients else loss)(params)
            return jax.tree.map(np.asarray, found)

    return compute


@pytest.mark.slow
def test_what_follows_the_longest_caption_changes_nothing(loss_and_gradients):
    tokens = some_tokens([3, 8, 5, 2])
    whole = loss_and_gradients(tokens)
    cut = loss_and_gradients(tokens[..., : longest(tokens)])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    assert longest(tokens) == 9
    assert abs(loss_and_gradients(tokens[..., :8], gradients=False) - whole[0]) > 1e-6


def test_a_caption_without_its_end_is_as_long_as_where_it_is_read():
    """With text.keep_end=False a cut caption is pooled at its largest id."""
    tokens = some_tokens([3, 5])
    tokens[0, 0] = [7, 90, 4, *[5] * (CONTEXT - 3)]
    assert longest(tokens) == 6
    tokens[0, 0, 9] = 91
    assert longest(tokens) == 10


ENDS = [[1, 3], [7, 2], [15, 1], [4, 3], [3, 1], [0, 11]]
NEEDED = [4, 8, 16, 8, 4, 16]  # of the lengths 4 and 8, and the context


@pytest.mark.parametrize("depth", [0, 2])
def test_each_batch_has_the_least_length_that_does(monkeypatch, depth):
    """Also where the processes ask each other, which goes two batches ahead."""
    read = []

    def batches():
        for number, ends in enumerate(ENDS * 2):
            read.append(number)
            yield {"tokens": some_tokens(ends), "number": number}

    cut = Cut(batches(), (8, 4, 77), CONTEXT, make_mesh(8))
    monkeypatch.setattr(cut, "_depth", depth)
    for number, (length, (found, batch)) in enumerate(
        zip(NEEDED, ((n, b) for n, b in cut), strict=False)
    ):
        assert batch["number"] == number and len(read) == number + 1 + depth
        assert found == length and batch["tokens"].shape == (2, 1, length)
        np.testing.assert_array_equal(
            batch["tokens"], some_tokens(ENDS[number % len(ENDS)])[..., :length]
        )


def test_without_lengths_captions_stay_whole():
    cut = Cut([{"tokens": some_tokens([1, 2])}], (), CONTEXT, make_mesh(1))
    assert next(cut)[0] == CONTEXT
    assert lengths.AHEAD  # or several processes would wait for each other's answer in each step
