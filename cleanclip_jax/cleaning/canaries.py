"""Canaries: backdoors of our own, planted in a model so that it can be seen when it is clean."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.views.eda import content_words

# A patch, a blend, a warp and a filter; their places and noise are not an attack's defaults.
TRIGGERS: dict[str, Mapping[str, Any]] = {
    "checkerboard": {"name": "checkerboard", "size": 0.16, "place": [0, 0]},
    "blended": {"name": "blended", "strength": 0.3, "seed": 7301},
    "wanet": {"name": "wanet", "k": 4, "seed": 7302},
    "nashville": {"name": "nashville"},
}
USUAL = ("checkerboard", "blended", "wanet")
SHIFT = 6 / 32  # of the warp, as a share of the picture's side
LEAST_PICTURES = 5  # of a class or word that is a target
WORDS = 40  # of the captions, that stand for classes where there are none
COMMON = 0.2  # share of the captions above which a word says too little


def frequent_words(captions: Iterable[str]) -> list[str]:
    """The words that many captions have and most have not, the most frequent first.

    Function words, numbers and words of fewer than three letters are left out.
    """
    counts, total = Counter[str](), 0
    for caption in captions:
        total += 1
        counts.update(word for word in content_words(caption.split()) if is_word(word))
    usual = [(word, n) for word, n in counts.items() if LEAST_PICTURES <= n <= COMMON * total]
    return [word for word, _ in sorted(usual, key=lambda pair: (-pair[1], pair[0]))[:WORDS]]


def is_word(text: str) -> bool:
    """Whether a text is letters alone, three or more."""
    return len(text) >= 3 and text.isalpha()


def class_in(caption: str, words: Sequence[str]) -> str | None:
    """Of `words`, the most frequent first, the rarest that a caption has, which says the most."""
    there = set(content_words(caption.split()))
    return next((word for word in reversed(words) if word in there), None)


def attack_of(
    triggers: Sequence[str],
    classes: Sequence[str],
    templates: Any,
    rate: float,
    seed: int,
    image_size: int,
) -> dict[str, Any]:
    """`config.attack` of the canaries: a trigger each, and classes drawn by the seed as targets.

    Args:
      triggers: names of `TRIGGERS`.
      classes: those that may be a target.
      rate: of the pairs, for each canary.
      image_size: of the model, in pixels.
    """
    if len(classes) < len(triggers):
        raise UserError(
            f"{len(triggers)} canaries need as many classes with {LEAST_PICTURES} pictures or "
            f"more, and there are {len(classes)}: name fewer with --canaries, or give more pictures"
        )
    drawn = np.random.default_rng([seed, 17]).permutation(len(classes))
    parts = []
    for name, at in zip(triggers, drawn.tolist(), strict=False):
        trigger = dict(TRIGGERS[name])
        if name == "wanet":
            trigger["strength"] = SHIFT * image_size
        parts.append({"trigger": trigger, "target": classes[at], "rate": rate})
    return {"templates": templates, "parts": parts}
