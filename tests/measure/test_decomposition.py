"""A ViT's embedding is the sum of its parts, and what repairs make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.measure.decomposition import (
    REPAIRS,
    Prototypes,
    Repair,
    check_decomposable,
    decompose,
    open_repair,
    repair_heads,
)
from cleanclip_jax.measure.encoder import encoder_of
from cleanclip_jax.models.clip import build, encode_image
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.normalise import normalise

# Two heads and two layers: none is the whole.
NUMBERS = Variant(16, 16, 2, 32, 8, 0, 32, 1, 6, vocab_size=300, vision_head_width=16)


def drawn(model, dtype="float32"):
    """Parameters of which none is nothing, so that each share is seen."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape) + 0.1, dtype), shapes_of(model)
    )


def whole_and_parts(model, towers, images):
    def both(towers, images):
        return normalise_rows(encode_image(model, towers, images)), decompose(model, towers, images)

    return jax.jit(both)(towers, images)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_the_parts_sum_to_the_embedding(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        model = build(NUMBERS, dtype=dtype, param_dtype=dtype)
        images = np.random.default_rng(1).standard_normal((3, 16, 16, 3))
        units, parts = whole_and_parts(model, drawn(model, dtype), jnp.asarray(images, dtype))
        assert parts.heads.shape == (2, 2, 3, 16) and parts.mlps.shape == (2, 3, 16)
        np.testing.assert_allclose(parts.sum(), units, atol=tolerance)


@pytest.fixture(scope="module")
def encoder():
    model, tokenizer = build(NUMBERS), Tokenizer.train(["a seven."], 300, 6)
    return encoder_of(model, drawn(model), tokenizer, make_mesh(2))


@pytest.mark.slow
def test_prototypes_are_means_and_repairs_put_them_in_place(encoder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    some = Prototypes.of(encoder, images, 4)
    given = (encoder.model, encoder.variables, normalise(jnp.asarray(images)))
    parts = jax.device_get(jax.jit(decompose, static_argnums=0)(*given))
    np.testing.assert_allclose(some.mlps, parts.mlps.mean(1), atol=1e-6)
    np.testing.assert_allclose(some.heads, parts.heads[-1].mean(1), atol=1e-6)
    some.save(tmp_path / "p.npz")
    given = {"prototypes": str(tmp_path / "p.npz"), "threshold": 10.0, "mlps": 1}
    repaired = dict(open_repair(given).encoders(encoder))
    assert tuple(repaired) == REPAIRS
    assert len({encoder.digest, *(one.digest for one in repaired.values())}) == 3
    # Every head is below that threshold: its part is the prototype, whatever the picture.
    features = {how: one.image_features(images, 5) for how, one in repaired.items()}
    length = np.asarray(parts.length)[:, None]
    expected = (
        parts.first + parts.mlps.sum(0) + parts.heads[:-1].sum((0, 1)) + some.heads.sum(0)[None]
    )
    np.testing.assert_allclose(features["heads"], expected * length, atol=1e-5)
    expected = parts.first + parts.mlps[0] + some.mlps[1][None] + parts.heads.sum((0, 1))
    np.testing.assert_allclose(features["mlps"], expected * length, atol=1e-5)
    nothing = Repair(tmp_path, some, -10.0, 1)
    untouched = dict(nothing.encoders(encoder))["heads"].image_features(images, 5)
    np.testing.assert_allclose(untouched, encoder.image_features(images, 5), atol=1e-5)


def test_heads_at_the_threshold_are_replaced():
    heads = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    after = repair_heads(heads, jnp.array([[0.5, 0.25]]), 0.25)
    np.testing.assert_array_equal(after, [[[1.0, 0.0], [0.5, 0.25]]])


def test_what_has_no_parts_or_other_prototypes_is_one_line(encoder, tmp_path):
    with pytest.raises(UserError, match="ResNet"):
        check_decomposable(build("RN-test"))
    other = Prototypes(np.ones((2, 16), np.float32), np.ones((3, 16), np.float32), "0", 1)
    other.save(tmp_path / "p.npz")
    with pytest.raises(UserError, match="another model"):
        open_repair({"prototypes": str(tmp_path / "p.npz")}).encoders(encoder)
    with pytest.raises(UserError, match=r"gone\.npz is not there"):
        open_repair({"prototypes": str(tmp_path / "gone.npz")})
    np.savez(tmp_path / "q.npz", heads=np.ones(3))
    with pytest.raises(UserError, match="no file of cleanclip decompose"):
        open_repair({"prototypes": str(tmp_path / "q.npz")})
