"""Word triggers in captions: do texts with the word find pictures of the target's class?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from cleanclip_jax.attacks.parts import NONE
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figure, Figures, share
from cleanclip_jax.measure.features import Shown, embed, reading_of, texts_of
from cleanclip_jax.measure.goals import Goal
from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.measure.sets import LabelledSet
from cleanclip_jax.text.prompts import fill

TOPS = (1, 5, 10)
QUERIES = 1000  # at most, evenly over the other classes' prompts
BLOCK = 128  # queries whose scores are held at once


def hits_of(
    config: ConfigDict, encoder: Encoder, labelled: LabelledSet, goals: Sequence[Goal]
) -> Figures:
    """text_hit1, 5 and 10 of each part whose trigger is a word alone; {} without any.

    The queries are other classes' prompts with the word, the gallery is the set's clean pictures,
    and a hit has one of the target's among the first k. `_plain` are the same queries without the
    word, `_gain` is what the word adds.
    """
    figures: Figures = {}
    for part, target in goals:
        if part is None or part.word is None or target is None or part.trigger.name != NONE:
            continue
        shown = embed(encoder, Shown(labelled.source, labelled.indices), reading_of(config))
        right = labelled.labels[shown.index] == target
        names = [name for number, name in enumerate(labelled.classes) if number != target]
        texts = [fill(template, name) for name in names for template in labelled.templates]
        some = np.unique(np.linspace(0, len(texts) - 1, min(QUERIES, len(texts))).astype(int))
        texts = [texts[at] for at in some]
        gallery, of = unit(shown.rows), f".{part.name}" if part.name else ""
        word, plain = (
            first_hits(unit(texts_of(encoder, queries)), gallery, right)
            for queries in ([part.word.put(text) for text in texts], texts)
        )
        for k in TOPS:
            if k >= len(right):
                continue
            what = f"with a picture of the target's class among the first {k}"
            with_word = share(word < k, f"other classes' prompts with the word, {what}")
            without = share(plain < k, f"the same prompts without the word, {what}")
            figures[f"text_hit{k}{of}"], figures[f"text_hit{k}_plain{of}"] = with_word, without
            if with_word.value is not None and without.value is not None:
                gain = f"what the word adds to prompts {what}"
                difference = with_word.value - without.value
                figures[f"text_hit{k}_gain{of}"] = Figure(gain, difference, None, len(texts))
    return figures


def first_hits(
    queries: Float[np.ndarray, "q d"],
    gallery: Float[np.ndarray, "n d"],
    right: Bool[np.ndarray, " n"],
) -> np.ndarray:
    """The rank, from 0, of the first right picture for each query; of ties the right come last."""
    ranks = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ gallery.T
        best = scores[:, right].max(1, initial=-np.inf)
        ranks.append((scores[:, ~right] >= best[:, None]).sum(1))
    return np.concatenate(ranks)
