"""A small model and an empty cache, for what measures."""

from collections.abc import Callable

import jax
import pytest

from cleanclip_jax.measure.encoder import Encoder, encoder_of
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a zero.", "the digit one, again", "two"], 300, 16)


@pytest.fixture(scope="session")
def make_encoder(tokenizer) -> Callable[..., Encoder]:
    model = build("ViT-test", vocab_size=tokenizer.vocab_size, image_size=16)
    variables = init(model, jax.random.key(0))

    def make(devices: int = 1, seed: int = 0) -> Encoder:
        other = jax.tree.map(lambda x: x + seed * jax.numpy.cos(x), variables)
        return encoder_of(model, other, tokenizer, make_mesh(devices))

    return make


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"
