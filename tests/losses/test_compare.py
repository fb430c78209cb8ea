"""The terms against the original's losses and gradients, and what must hold of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.openai_layout import relative

from cleanclip_jax.losses.compare import PAIRS, gathered, normalise_rows
from cleanclip_jax.losses.ring import ringed
from cleanclip_jax.losses.terms import TERMS, Context

CASES = {"mmcl": (1.0, 0.0), "cleanclip": (1.0, 1.0), "weighted": (0.5, 4.0)}
# PAIRS is also the order of the golden gradients' first axis.


def weighted(weights, units, logit_scale, comparing=gathered):
    compare = comparing(units, jnp.exp(logit_scale))
    terms = (term(name, compare) for name in ("cross_modal", "in_modal"))
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def term(name, compare):
    context = Context({}, {}, compare, {}, None, None, jnp.int32(0), {})
    return TERMS[name].loss(context)[0]


@pytest.mark.parametrize("comparing", [gathered, ringed])
@pytest.mark.parametrize("scale", ["2.6593", "4.6052"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_original(golden, case, scale, comparing):
    g = golden("losses")
    embeddings = {name: jnp.asarray(g[name]) for name in PAIRS}
    loss_of = jax.value_and_grad(lambda e, s: weighted(CASES[case], e, s, comparing), (0, 1))
    compute = jax.jit(loss_of)
    loss, (by_embedding, by_scale) = compute(embeddings, jnp.float32(scale))
    assert float(loss) == pytest.approx(float(g[f"{case}/{scale}/loss"]), rel=1e-5)
    stacked = jnp.stack([by_embedding[name] for name in PAIRS])
    assert relative(stacked, g[f"{case}/{scale}/grad"]) <= 1e-5
    assert float(by_scale) == pytest.approx(float(g[f"{case}/{scale}/grad_logit_scale"]), rel=1e-5)


def some_embeddings(count=6) -> dict[str, jax.Array]:
    values = np.random.default_rng(0).normal(size=(4, count, 8))
    rows = normalise_rows(jnp.asarray(values, jnp.float32))
    return {name: rows[i] for i, name in enumerate(PAIRS)}


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
    one = term("in_modal", gathered(e, scale))
    turned: dict[str, jax.Array] = {
        "image": e["image_view"],
        "text": e["text_view"],
        "image_view": e["image"],
        "text_view": e["text"],
    }
    assert abs(float(one - term("in_modal", gathered(turned, scale)))) > 1e-3
    swapped = {"image": e["text"], "text": e["image"]}
    both = term("cross_modal", gathered(e, scale))
    assert float(both) == pytest.approx(float(term("cross_modal", gathered(swapped, scale))))


@pytest.mark.parametrize("comparing", [gathered, ringed])
def test_rows_of_a_terms_own_are_compared_as_named_ones_are(comparing):
    e, scale = some_embeddings(), jnp.float32(10.0)
    compare = comparing(e, scale)
    assert float(compare("image", e["text"])) == float(compare("image", "text"))
    assert float(compare(e["image"], "text")) == float(compare("image", "text"))


@pytest.mark.parametrize("comparing", [gathered, ringed])
def test_a_matched_batch_costs_little_and_chance_costs_log_b(comparing):
    def cost(rows, scale):
        return float(comparing({}, jnp.float32(scale))(rows, rows))

    assert cost(jnp.eye(8), 100.0) < 1e-6
    assert cost(jnp.ones((8, 4)) / 2, 5.0) == pytest.approx(np.log(8))
