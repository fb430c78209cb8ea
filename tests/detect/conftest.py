"""A made model: what it encodes is counted."""

from collections.abc import Callable

import numpy as np
import pytest
from helpers.made_pairs import SIDE, MadeEncoder

from cleanclip_jax.models.clip import build
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.text.tokenizer import Tokenizer


@pytest.fixture
def made_encoder(monkeypatch) -> Callable[[int], MadeEncoder]:
    model = build("ViT-test-one", vocab_size=300, image_size=SIDE)
    tokenizer = Tokenizer.train(["a zero."], 300, 16)

    def make(seed: int = 0) -> MadeEncoder:
        rng, width = np.random.default_rng(seed), model.variant.features
        towers = {
            "visual": rng.normal(size=(SIDE * SIDE * 3, width)).astype(np.float32),
            "text": rng.normal(size=(97, width)).astype(np.float32),
            "logit_scale": np.float32(4.6),
        }
        monkeypatch.setattr(MadeEncoder, "counts", [0, 0])
        return MadeEncoder(model, {"params": towers}, tokenizer, make_mesh(1))

    return make
