"""Easy Data Augmentation of captions (Wei and Zou 2019, arXiv 1901.11196)."""

import re
from collections.abc import Callable

import numpy as np

from cleanclip_jax.views.synonyms import Synonyms, load_synonyms

__all__ = ["Synonyms", "eda", "load_synonyms"]

Words = list[str]

# From a word's first letter or digit to its last: what stands around it is left where it is when
# the word is replaced. One pass there and one back: a caption may be one word of any length.
_WORD = re.compile(r"\w(?:.*\w)?")

# Function words: as in the paper, these are not replaced.
_STOP_LIST = """
    a about above across after again against all also am an and any are as at be because been
    before behind being below beside between both but by can cannot could did do does doing down
    during each either every few for from further had has have having he her here hers herself him
    himself his how i if in inside into is it its itself just may me might more most must my myself
    near neither no nor not now of off on once only onto or other our ours ourselves out outside
    over own same shall she should since so some such than that the their theirs them themselves
    then there these they this those through to too toward towards under until up upon us very was
    we were what when where which while who whom whose why will with within without would yet you
    your yours yourself yourselves
"""
_STOP_WORDS = frozenset(_STOP_LIST.split())


def eda(
    caption: str,
    rng: np.random.Generator,
    synonyms: Synonyms | None,
    strength: float = 0.1,
) -> str:
    """Returns another view of a caption, by one operation drawn from `rng`.

    The operations: a share `strength` of the words (one at least) is replaced by synonyms; as
    many synonyms are inserted; as many times two words change places; or each word is deleted
    with that chance. Without synonyms the first is left out, and words of the caption itself
    are inserted.

    Words are what spaces separate, and stay as they are. The original strips a caption down to
    the letters a-z first, which takes "7" out of "the digit 7" and all of a Russian caption.
    A caption with nothing to change, or a draw that changes nothing, gives the caption
    (docs/fidelity.md: captions without letters).
    """
    words = caption.split()
    if not any(map(_core, words)) or strength <= 0:
        return caption
    count = max(1, int(strength * len(words)))
    operations: list[Callable[[], Words]] = [
        lambda: _insert(words, count, synonyms, rng),
        lambda: _swap(words, count, rng),
        lambda: _delete(words, strength, rng),
    ]
    if synonyms is not None:
        operations.append(lambda: _replace(words, count, synonyms, rng))
    reworded = operations[rng.integers(len(operations))]()
    return caption if reworded == words else " ".join(reworded)


def _parts(word: str) -> tuple[str, str, str]:
    match = _WORD.search(word)
    if match is None:
        return word, "", ""
    return word[: match.start()], match[0], word[match.end() :]


def _core(word: str) -> str:
    return _parts(word)[1].lower()


def content_words(words: Words) -> Words:
    """The distinct words that are no stop words, bare, in an order that draws can rely on."""
    return sorted({_core(word) for word in words} - _STOP_WORDS - {""})


def _replace(words: Words, count: int, synonyms: Synonyms, rng: np.random.Generator) -> Words:
    choices = {word: synonyms(word) for word in content_words(words)}
    old = [word for word, options in choices.items() if options]
    new = {
        old[at]: choices[old[at]][rng.integers(len(choices[old[at]]))]
        for at in rng.permutation(len(old))[:count]
    }
    # Every occurrence, and the punctuation around a word stays.
    return [
        f"{before}{new.get(core.lower(), core)}{after}"
        for before, core, after in map(_parts, words)
    ]


def _insert(words: Words, count: int, synonyms: Synonyms | None, rng: np.random.Generator) -> Words:
    choices = [synonyms(word) if synonyms else (word,) for word in content_words(words)]
    choices = [options for options in choices if options]
    if not choices:
        return words
    words = list(words)
    for _ in range(count):
        options = choices[rng.integers(len(choices))]
        words.insert(int(rng.integers(len(words) + 1)), options[rng.integers(len(options))])
    return words


def _swap(words: Words, count: int, rng: np.random.Generator) -> Words:
    if len(words) < 2:
        return words
    words = list(words)
    for _ in range(count):
        one, other = rng.choice(len(words), size=2, replace=False)
        words[one], words[other] = words[other], words[one]
    return words


def _delete(words: Words, chance: float, rng: np.random.Generator) -> Words:
    draws = rng.random(len(words))
    left = [word for word, draw in zip(words, draws, strict=True) if draw >= chance]
    return left or [words[rng.integers(len(words))]]
