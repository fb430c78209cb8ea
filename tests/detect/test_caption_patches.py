"""A caption with a planted backdoor needs the smallest patch, and sizes are held against others."""

import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.detect.caption_patches import anomaly_index, caption_patches
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.models.clip import build
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.text.tokenizer import Tokenizer


class Planted(Tower):
    """Features that follow a corner of the picture for the first of four captions."""

    def encode(self, variables, pictures):
        corner = pictures[:, :2, :2].mean((1, 2, 3))
        bands = [pictures[:, 4 * i : 4 * i + 4].mean((1, 2, 3)) for i in range(3)]
        return jnp.stack([5 * corner, *bands], 1) + 3.0


@pytest.mark.slow
def test_the_planted_caption_needs_the_smallest_patch():
    tokenizer = Tokenizer.train(["a seven."], 300, 6)
    tower = Planted(Encoder(build("ViT-test-one"), {}, tokenizer, make_mesh(1)))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8)
    texts = np.eye(4, dtype=np.float32)
    patches = list(caption_patches(tower, texts, range(4), pictures, 120, 8))
    sizes = [patch.size for patch in patches]
    assert sizes[0] is not None
    assert all(size is None or sizes[0] < size for size in sizes[1:])


def test_the_index_is_large_for_what_is_small_among_the_others():
    index = anomaly_index([0.2, 1.0, 1.1, 0.9, None, 1.2])
    assert index[4] is None and max(x for x in index if x is not None) == index[0]
    assert index[0] == pytest.approx((1.0 - 0.2) / (1.4826 * 0.1))
    assert anomaly_index([1.0, 1.0]) == [None, None] and anomaly_index([None]) == [None]
