"""The table of architectures."""

import jax
import pytest

from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import VARIANTS


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        pytest.param("RN50", 102.0, marks=pytest.mark.slow),
        pytest.param("RN101", 119.7, marks=pytest.mark.faults),
        pytest.param("RN50x4", 178.3, marks=pytest.mark.faults),
        pytest.param("RN50x16", 291.0, marks=pytest.mark.faults),
        ("ViT-B/32", 151.3),
        pytest.param("ViT-B/16", 149.6, marks=pytest.mark.slow),
        pytest.param("ViT-L/14", 427.6, marks=pytest.mark.slow),
    ],
)
def test_variants_have_the_published_sizes(name, millions):
    """Parameters in millions, of OpenAI's models (their towers and embeddings together)."""
    shapes = jax.eval_shape(lambda: init(build(name), jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_heads_divide_the_width():
    assert all(v.text_width % v.text_heads == 0 for v in VARIANTS.values())
