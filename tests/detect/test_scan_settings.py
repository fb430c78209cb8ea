"""Draws of references, and the warning of poisons among them."""

import numpy as np

from cleanclip_jax.detect.scan_settings import Settings


def test_draws_differ_and_are_the_same_again():
    settings = Settings(("slof",))
    draws = settings.references(50_000)
    assert [len(np.unique(draw)) for draw in draws] == [2048] * 4
    assert len({draw.tobytes() for draw in draws}) == 4
    again = Settings(("slof",)).references(50_000)
    assert all(np.array_equal(a, b) for a, b in zip(draws, again, strict=True))
    assert settings.sample_of(1000) == 200 and settings.sample_of(100) == 64
    assert settings.sample_of(20) == 20


def test_every_record_is_in_one_part():
    for settings in (Settings(("slof",)), Settings(("slof",), neighbours="original", block=77)):
        parts = settings.parts(40_000)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(40_000))
        assert max(map(len, parts)) <= 16_384


def test_the_warning():
    settings = Settings(("slof",))
    assert settings.hidden_poisons(3_000_000, 0.001) is None
    text = settings.hidden_poisons(3_000_000, 0.01)
    assert (
        text is not None and "20 of 2048 reference pairs are poisoned, more than half of k" in text
    )
    assert Settings(("slof",), k=64).hidden_poisons(3_000_000, 0.01) is None
    assert Settings(("slof",), sample=512).hidden_poisons(3_000_000, 0.01) is None
