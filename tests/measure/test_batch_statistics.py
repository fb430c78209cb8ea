"""Running statistics taken anew: those of the pictures, and which pictures they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import batch_statistics
from cleanclip_jax.measure.batch_statistics import drawn_pictures, fresh_statistics
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.models.clip import build
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.views.decode import BadRecord
from cleanclip_jax.views.normalise import normalise


def test_they_are_the_pictures_mean_and_unbiased_variance(monkeypatch: pytest.MonkeyPatch):
    """Of the stem, whose statistics can be had without the model; the old ones play no part."""
    model = build("RN-test", image_size=32, bn_frozen=True)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes_of(model))
    encoder = Encoder(model, variables, None, make_mesh(1))
    pictures = [rng.integers(256, size=(n, 32, 32, 3), dtype=np.uint8) for n in (3, 3)]
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
    monkeypatch.setattr(
        batch_statistics, "_statistics", lambda model, variables, images: parts[len(images)]
    )
    parts = {3: {"m": np.full(2, 0.1, np.float32)}, 1: {"m": np.full(2, 0.5, np.float32)}}
    mixed = fresh_statistics(encoder, [pictures[0], pictures[1][:1]])
    np.testing.assert_allclose(mixed["m"], 2.0, rtol=1e-6)  # (3 · 1 + 1 · 5) / 4


def test_the_seed_draws_whole_batches_of_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_statistics, "BATCH", 4)
    source = open_source({"kind": "digits", "split": "test"})

    def drawn(count: int, seed: int = 0) -> list[np.ndarray]:
        return drawn_pictures(source, count, seed, 8, Reading(4))

    assert [len(images) for images in drawn(11)] == [4, 4] and len(drawn(3)[0]) == 3
    same, other = drawn(8), drawn(8, 1)
    assert (np.concatenate(same) == np.concatenate(drawn(11))).all()
    assert (np.concatenate(same) != np.concatenate(other)).any()
    monkeypatch.setattr(batch_statistics, "BATCH", 256)
    everything = np.concatenate(drawn(10_000))
    assert len(everything) == 256  # of the test's 400

    class Broken(type(source)):
        def __getitem__(self, index: int):
            raise BadRecord("it is missing")

    source.__class__ = Broken
    with pytest.raises(UserError, match="256 of 256 pictures for the running statistics are"):
        drawn(300)
