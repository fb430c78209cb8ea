"""Heads, which no tensor shows, and what an architecture is called."""

from dataclasses import replace

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.recognise import guess_heads, in_words, name_of

HUGE = VARIANTS["ViT-H/14"]


def shown(v):
    return replace(v, text_heads=1, vision_head_width=64)


@pytest.mark.parametrize("name", ["ViT-H/14", "ViT-g/14", "ViT-bigG/14", "ViT-B/32", "RN50x64"])
def test_shapes_with_a_name_have_its_heads(name):
    v = replace(VARIANTS[name], image_size=448, context_length=32, vocab_size=99)
    assert guess_heads("it", "open_clip", shown(v)) == v and name_of(v) == name


def test_other_shapes_have_heads_of_64_or_are_refused():
    assert guess_heads("it", "openai", shown(HUGE)).vision_heads == 20
    odd = replace(HUGE, text_layers=5)
    assert guess_heads("it", "open_clip", shown(odd)).text_heads == 16
    assert in_words(odd) == "ViT 32 x 1280/14 with text 5 x 1024"
    for beyond in ({"vision_width": 1408 + 32}, {"ln_pre": False}):
        with pytest.raises(UserError, match=r"it: ViT .* don't show its heads: put its open_clip"):
            guess_heads("it", "open_clip", shown(replace(odd, **beyond)))
