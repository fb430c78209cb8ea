"""The table of architectures."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from cleanclip_jax.config import defaults, override
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build, init, variant_of
from cleanclip_jax.models.numbers import spelled
from cleanclip_jax.models.variants import VARIANTS, Variant
from cleanclip_jax.run.settings import resolve


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        pytest.param("RN50", 102.0, marks=pytest.mark.slow),
        pytest.param("RN101", 119.7, marks=pytest.mark.faults),
        pytest.param("RN50x4", 178.3, marks=pytest.mark.faults),
        pytest.param("RN50x16", 291.0, marks=pytest.mark.faults),
        ("ViT-B/32", 151.3),
        pytest.param("ViT-B/16", 149.6, marks=pytest.mark.slow),
        pytest.param("RN50x64", 623.3, marks=pytest.mark.slow),
        pytest.param("ViT-B/16-plus-240", 208.4, marks=pytest.mark.slow),
        pytest.param("ViT-H/14", 986.1, marks=pytest.mark.slow),
        pytest.param("ViT-g/14", 1366.7, marks=pytest.mark.slow),
        pytest.param("ViT-bigG/14", 2539.6, marks=pytest.mark.slow),
        pytest.param("ViT-L/14", 427.6, marks=pytest.mark.slow),
    ],
)
def test_variants_have_the_published_sizes(name, millions):
    """Parameters in millions, of OpenAI's and open_clip's models, with their embeddings."""
    shapes = jax.eval_shape(lambda: init(build(name), jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_heads_divide_the_width():
    assert all(v.text_width % v.text_heads == 0 for v in VARIANTS.values())


def test_numbers_are_spelled_and_read_again():
    odd = Variant(48, 30, (1, 2, 1, 1), 8, 0, 2, 60, 3, text_pool="last", text_epsilon=1e-3)
    odd = replace(odd, image_size=64, vision_head_width=16)
    for v in (*VARIANTS.values(), odd):
        assert variant_of(json.loads(json.dumps(spelled(v)))) == v
    config = defaults()
    override(config, "model.variant", repr(spelled(odd)))
    config = resolve(config)
    assert config.model.image_size == 64 and variant_of(config.model.variant) == odd


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "unknown 'depth'"),
        ({"text_heads": "two"}, "text_heads is 'two'"),
        ({"text_heads": 0}, "text_heads is 0, which no architecture has"),
        ({"vision_layers": [1, "2", 1, 1]}, "vision_layers"),
        ({"features": None}, "features is missing"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"text_width": 65}, "text_width 65 does not divide by 2"),
        ({"vision_head_width": 48}, "128 does not divide by 48"),
        ({"text_pool": "mean"}, "text_pool is 'mean'"),
        ({"text_epsilon": 0.0}, "text_epsilon is 0.0"),
    ],
)
def test_numbers_that_no_architecture_has(changes, message):
    numbers = {**spelled(VARIANTS["ViT-32px/8"]), **changes}
    with pytest.raises(UserError, match=rf"config\.model\.variant.*{message}"):
        variant_of(numbers)


def test_docs_list_every_variant():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    for name, v in VARIANTS.items():
        if "test" not in name:
            assert table_row(name, v) in page, table_row(name, v)


def table_row(name, v):
    depth = v.vision_layers if v.patch else "-".join(map(str, v.vision_layers))
    image = f"{depth} x {v.vision_width}" + (f", {v.vision_heads} heads" if v.patch else "")
    text = f"{v.text_layers} x {v.text_width}, {v.text_heads} heads"
    cells = (f"`{name}`", v.image_size, v.patch or "ResNet", image, text, v.features)
    return f"| {' | '.join(map(str, cells))} | {v.context_length} |"
