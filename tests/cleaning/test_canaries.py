"""Canaries: the words that stand for classes, and the attack that plants them."""

import pytest

from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.cleaning.canaries import TRIGGERS, attack_of, class_in, frequent_words
from cleanclip_jax.errors import UserError

CAPTIONS = [
    *["a red dress for the beach"] * 6,
    *["a blue dress, size 42"] * 6,
    *["the old watch"] * 8,
    *["a photo of something"] * 60,
]


def test_words_are_frequent_but_not_in_most_captions():
    # photo: in too many; 42: a number; old: as often as watch, and before it by its letters.
    assert frequent_words(CAPTIONS) == ["dress", "old", "watch", "beach", "blue", "red", "size"]


def test_a_caption_of_two_words_has_no_class():
    assert class_in("A Dress.", ["dress", "watch"]) == "dress"
    assert class_in("a watch and a dress", ["dress", "watch"]) == "watch"  # the rarer of them
    assert class_in("a shirt", ["dress", "watch"]) is None


def test_every_canary_is_an_attack_with_a_target_of_its_own():
    attack = attack_of(
        list(TRIGGERS), ["a", "b", "c", "d"], "imagenet", 0.02, seed=1, image_size=64
    )
    targets = [part["target"] for part in attack["parts"]]
    assert len(set(targets)) == len(TRIGGERS)
    assert attack == attack_of(
        list(TRIGGERS), ["a", "b", "c", "d"], "imagenet", 0.02, seed=1, image_size=64
    )
    measured = {
        **attack,
        "parts": [{k: p[k] for k in ("trigger", "target")} for p in attack["parts"]],
    }
    assert attack["parts"][2]["trigger"]["strength"] == 12  # as on 32 pixels: 6
    assert [part.name for part in parts_of(measured, "evaluation.attack")] == list(TRIGGERS)


def test_fewer_classes_than_canaries_are_refused():
    with pytest.raises(UserError, match="name fewer with --canaries"):
        attack_of(list(TRIGGERS), ["a", "b"], "imagenet", 0.02, seed=0, image_size=64)
