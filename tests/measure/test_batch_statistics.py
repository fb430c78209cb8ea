"""Running statistics taken anew: those of the pictures, and which pictures they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.pictures import Pictures

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import batch_statistics
from cleanclip_jax.measure.batch_statistics import drawn_pictures, fresh_statistics
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.models.clip import build
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.normalise import normalise


@pytest.mark.slow
def test_they_are_the_pictures_mean_and_unbiased_variance(tokenizer: Tokenizer):
    """Of the stem, whose statistics can be had without the model; the old ones play no part."""
    model = build("RN-test", image_size=32, bn_frozen=True)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes_of(model))
    encoder = Encoder(model, variables, tokenizer, make_mesh(1))
    pictures = rng.integers(256, size=(2, 3, 32, 32, 3), dtype=np.uint8)
    statistics = fresh_statistics(encoder, pictures)
    kernel, norm = variables["params"]["visual"]["conv1"]["kernel"], statistics["visual"]["bn1"]
    out = np.stack(
        [
            jax.lax.conv_general_dilated(
                normalise(jnp.asarray(images)),
                kernel,
                (2, 2),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            for images in pictures
        ]
    )
    np.testing.assert_allclose(norm["mean"], out.mean((0, 1, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm["var"], out.var((1, 2, 3), ddof=1).mean(0), rtol=1e-4)
    for x, y in zip(*map(jax.tree.leaves, (statistics, variables["batch_stats"])), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype and np.isfinite(x).all()


def test_batches_count_alike(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    parts = iter([{"m": np.full(2, x, np.float32)} for x in (0.1, 0.5)])
    monkeypatch.setattr(batch_statistics, "_statistics", lambda *_: next(parts))
    pictures, variables = np.zeros((2, 3, 4, 4, 3), np.uint8), {"params": {}, "batch_stats": {}}
    encoder = Encoder(build("ViT-test"), variables, tokenizer, make_mesh(1))
    assert fresh_statistics(encoder, pictures) == {}
    variables["batch_stats"] = {"m": np.ones(2)}
    # A step takes a tenth of each.
    np.testing.assert_allclose(fresh_statistics(encoder, pictures)["m"], 3.0, rtol=1e-6)


def test_the_seed_draws_whole_batches_of_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_statistics, "BATCH", 4)
    source = Pictures([f"picture {i}" for i in range(30)], missing=[7])

    def drawn(count: int, seed: int = 0, share: float = 0.5) -> np.ndarray:
        return drawn_pictures(source, count, seed, 8, Reading(9, max_bad_share=share))

    shapes = [drawn(count).shape[:2] for count in (3, 10, 11, 100)]
    assert shapes == [(1, 3), (2, 4), (2, 4), (7, 4)]  # of 29 that can be read
    first = drawn(8)
    assert (first == drawn(11)[:2]).all() and (first != drawn(8, seed=1)).any()
    assert len({picture.tobytes() for batch in drawn(100) for picture in batch}) == 28
    with pytest.raises(UserError, match="1 of 30 pictures for the running statistics are unread"):
        drawn(100, share=0.01)
