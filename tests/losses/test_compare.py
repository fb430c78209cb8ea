"""The terms against the original's losses and gradients, and what must hold of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import relative

from cleanclip_jax.losses.compare import TERMS, Embeddings, gathered, normalise_rows
from cleanclip_jax.losses.ring import ringed

CASES = {"mmcl": (1.0, 0.0), "cleanclip": (1.0, 1.0), "weighted": (0.5, 4.0)}
# The order of the golden gradients' first axis.
ORDER = ("image", "image_view", "text", "text_view")


def matrix(embeddings, scale):
    return gathered(embeddings, embeddings, scale)


def weighted(weights, embeddings, logit_scale, comparing=matrix):
    compare = comparing(embeddings, jnp.exp(logit_scale))
    terms = (TERMS[name](compare) for name in ("cross_modal", "in_modal"))
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


@pytest.mark.parametrize("comparing", [matrix, ringed])
@pytest.mark.parametrize("scale", ["2.6593", "4.6052"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_original(golden, case, scale, comparing):
    g = golden("losses")
    embeddings = Embeddings(**{name: jnp.asarray(g[name]) for name in Embeddings._fields})
    compute = jax.value_and_grad(lambda e, s: weighted(CASES[case], e, s, comparing), (0, 1))
    loss, (by_embedding, by_scale) = compute(embeddings, jnp.float32(scale))
    assert float(loss) == pytest.approx(float(g[f"{case}/{scale}/loss"]), rel=1e-5)
    stacked = jnp.stack([getattr(by_embedding, name) for name in ORDER])
    assert relative(stacked, g[f"{case}/{scale}/grad"]) <= 1e-5
    assert float(by_scale) == pytest.approx(float(g[f"{case}/{scale}/grad_logit_scale"]), rel=1e-5)


def some_embeddings(count=6):
    values = np.random.default_rng(0).normal(size=(4, count, 8))
    return Embeddings(*normalise_rows(jnp.asarray(values, jnp.float32)))


def test_permuting_the_pairs_permutes_the_gradients():
    embeddings, order = some_embeddings(), np.array([3, 0, 5, 1, 4, 2])
    compute = jax.value_and_grad(lambda e: weighted((1.0, 1.0), e, jnp.float32(3.0)))
    loss, gradients = compute(embeddings)
    permuted_loss, permuted = compute(jax.tree.map(lambda e: e[order], embeddings))
    assert float(loss) == pytest.approx(float(permuted_loss), rel=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradients, permuted)), strict=True):
        np.testing.assert_allclose(ours[order], theirs, atol=1e-6)


def test_in_modal_is_one_way_and_cross_modal_both():
    e, scale = some_embeddings(), jnp.float32(10.0)
    one = TERMS["in_modal"](matrix(e, scale))
    assert e.image_view is not None and e.text_view is not None
    turned = Embeddings(e.image_view, e.text_view, e.image, e.text)
    assert abs(float(one - TERMS["in_modal"](matrix(turned, scale)))) > 1e-3
    swapped = Embeddings(e.text, e.image)
    both = TERMS["cross_modal"](matrix(e, scale))
    assert float(both) == pytest.approx(float(TERMS["cross_modal"](matrix(swapped, scale))))


@pytest.mark.parametrize("comparing", [matrix, ringed])
def test_a_matched_batch_costs_little_and_chance_costs_log_b(comparing):
    def cost(rows, scale):
        return float(comparing(Embeddings(rows, rows), jnp.float32(scale))("image", "text"))

    assert cost(jnp.eye(8), 100.0) < 1e-6
    assert cost(jnp.ones((8, 4)) / 2, 5.0) == pytest.approx(np.log(8))
