"""A made model: what it encodes is counted."""

from collections.abc import Callable

import pytest
from helpers.made_pairs import MadeEncoder, make_encoder


@pytest.fixture
def made_encoder(monkeypatch) -> Callable[..., MadeEncoder]:
    monkeypatch.setattr(MadeEncoder, "counts", [0, 0])

    def make(seed: int = 0) -> MadeEncoder:
        MadeEncoder.counts[:] = [0, 0]
        return make_encoder(seed)

    return make
