"""BadCLIP's patch against its own code's (tests/golden, float32), and what its terms are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.openai_layout import relative, variables

from cleanclip_jax.attacks.device_patch import (
    MARGINS,
    PatchBatch,
    PatchLoss,
    PatchState,
    clipped,
    embed,
    make_patch_step,
    patch_terms,
    text_term,
    viewed,
)
from cleanclip_jax.models.clip import build

PLACE = (13, 13)
RELEASED = PatchLoss("contrastive", "euclid", 1.0, 500.0, "triggered", PLACE)
CLEAN = replace(RELEASED, negatives="clean")
VARIANTS = {
    "neg=triggered|euclid|margin=1|weight=500": RELEASED,
    "neg=clean|euclid|margin=1|weight=500": CLEAN,
    "neg=clean|euclid|margin=0.1|weight=500": replace(CLEAN, margin=0.1),
    "neg=clean|cosine|margin=0.1|weight=10": replace(
        CLEAN, visual_loss="cosine", margin=MARGINS["cosine"][0], weight=MARGINS["cosine"][1]
    ),
    "text_only": replace(CLEAN, weight=0.0),
}


@pytest.fixture(scope="module")
def values(golden):
    return golden("badclip")


@pytest.fixture(scope="module")
def model(golden):
    return build("ViT-test"), variables(golden, "vit")


def start(values) -> jax.Array:
    return jnp.asarray(values["patch_start"].transpose(1, 2, 0))


def batch_of(values, variant: str, step: int = 0) -> PatchBatch:
    """The original's batch, and what it drew."""
    drawn = "neg=clean|euclid|margin=1|weight=500" if variant == "text_only" else variant
    positives, negatives = (
        values[f"{drawn}|{kind}_indices"][step] for kind in ("positive", "negative")
    )
    return PatchBatch(
        jnp.asarray(values["pictures"]),
        jnp.asarray(values["text_embeddings"]),
        jnp.asarray(values["positive_embeddings"][positives]),
        jnp.asarray(negatives.astype(np.int32)),
    )


@pytest.fixture(scope="module")
def encode(values, model):
    """Unit embeddings of the pictures with a patch, and what a gradient by them is by the patch."""
    clip, weights = model

    @jax.jit
    def run(weights, images, patch, by_units):
        units, back = jax.vjp(lambda patch: embed(clip, weights, images, PLACE, patch), patch)
        return units, back(by_units)[0]

    return lambda patch, by_units: run(weights, jnp.asarray(values["pictures"]), patch, by_units)


@pytest.fixture(scope="module")
def adam():
    optimizer = optax.adam(1e-3)
    return optimizer.init, jax.jit(optimizer.update)


def names_of(variant: str) -> dict[str, str]:
    """What the original calls the terms."""
    loss = VARIANTS[variant]
    visual = {"visual": "cos_triplet" if loss.visual_loss == "cosine" else "triplet"}
    return {"text": "img_text", **(visual if loss.weight else {})}


def check_step(values, variant: str, number: int, terms, patch) -> None:
    names = names_of(variant)
    losses = values[f"{variant}|losses_3_steps|{','.join(names.values())}"][number]
    np.testing.assert_allclose([float(terms[name]) for name in names], losses, rtol=1e-6)
    expected = values[f"{variant}|adam_lr=0.001|patch_after_1,2,3"][number].transpose(1, 2, 0)
    differ = np.abs(np.asarray(patch) - expected)
    assert differ.max() <= 1e-5 and np.median(differ) <= 1.2e-7


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_steps_are_the_originals(values, model, encode, adam, variant: str):
    """Losses, each term's gradient and the patch, of which some elements begin at an end."""
    loss, patch = VARIANTS[variant], start(values)
    scale, clean = jnp.exp(model[1]["params"]["logit_scale"]), None
    if loss.weight and loss.negatives == "clean":
        clean = jnp.asarray(values[f"{variant}|negative_embeddings_step1"])

    @jax.jit
    def by_units(units, batch):
        def terms(units):
            each = patch_terms(loss, units, clean, batch, scale)
            return each, each

        return jax.jacrev(terms, has_aux=True)(units)

    state = adam[0](patch)
    for number in range(3):
        units, _ = encode(patch, jnp.zeros((64, 48)))
        gradients, terms = by_units(units, batch_of(values, variant, number))
        of_patch = {name: encode(patch, one)[1] for name, one in gradients.items()}
        if number == 0:
            for ours, name in names_of(variant).items():
                expected = values[f"{variant}|grad_step1|{name}"].transpose(1, 2, 0)
                # 2.03e-6 in float64: what is left is the original's rounding.
                assert relative(of_patch[ours], expected) <= 2.2e-6, name
        update, state = adam[1](sum(of_patch.values()), state)
        patch = patch + update
        check_step(values, variant, number, terms, patch)


@pytest.mark.slow
def test_the_compiled_step_is_the_originals(values, model):
    variant, optimizer = "neg=clean|euclid|margin=1|weight=500", optax.adam(1e-3)
    step = make_patch_step(model[0], VARIANTS[variant], optimizer, 0)
    state = PatchState(jnp.int32(0), start(values), optimizer.init(start(values)))
    for number in range(3):
        state, terms = step(state, model[1], batch_of(values, variant, number))
        check_step(values, variant, number, terms, state.patch)


def test_embeddings_are_the_originals(values, encode):
    units, _ = encode(start(values), jnp.zeros((64, 48)))
    np.testing.assert_allclose(units, values["triggered_embeddings"], atol=4e-7)


def test_the_clips_gradient_is_one_at_its_ends():
    line = np.array([-0.1, 0, 0.3, 1, 1.1], np.float32)
    patch = jnp.asarray(np.broadcast_to(line[:, None, None], (5, 5, 3)))
    gradient = jax.grad(lambda p: clipped(p).sum())(patch)
    np.testing.assert_array_equal(gradient[:, 0, 0], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(clipped(patch)[:, 0, 0], line.clip(0, 1))


def unit_rows(seed: int, count: int) -> jax.Array:
    rows = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_the_contrastive_term_does_not_prefer_the_target():
    """Alike pictures give ln 64 on the target and opposite it; the term of classes tells them."""
    others, toward = unit_rows(0, 64), unit_rows(1, 1)
    captions = jnp.broadcast_to(toward, (64, 8))
    batch = PatchBatch(jnp.zeros((64, 2, 2, 3), jnp.uint8), captions, others, jnp.arange(64))

    def value(text: str, sign: int) -> float:
        texts = jnp.concatenate([toward, others[:9]]) if text == "classes" else captions
        made, loss = batch._replace(texts=texts, target=0), replace(CLEAN, text_loss=text)
        return float(text_term(loss, sign * captions, made, jnp.float32(20), None))

    both = [value("contrastive", sign) for sign in (1, -1)]
    np.testing.assert_allclose(both, np.log(64), rtol=1e-6)
    assert value("classes", 1) < 0.01 < 1 < value("classes", -1)


@pytest.mark.parametrize("per", ["picture", "batch"])
def test_one_coin_a_picture_or_one_a_batch(per: str, monkeypatch):
    monkeypatch.setattr("cleanclip_jax.attacks.device_patch.augment", lambda x, keys: 255 - x)
    images = jnp.zeros((32, 2, 2, 3), jnp.uint8)
    loss = replace(CLEAN, view=0.5, view_per=per)
    shares = [float((viewed(images, loss, jax.random.key(i)) > 0).mean()) for i in range(16)]
    assert 0.2 < np.mean(shares) < 0.8
    assert (set(shares) == {0.0, 1.0}) == (per == "batch")
