import time
from collections import Counter

import numpy as np
import pytest

from cleanclip_jax.views.eda import Synonyms, _parts, eda

CAPTION = "A small Dog, running on the beach: 7 of 9 dogs!"
KNOWN = {"small": ("little", "wee"), "dog": ("hound",), "beach": ("shore",)}


class Stub(Synonyms):
    def __call__(self, word: str) -> tuple[str, ...]:
        return KNOWN.get(word, ())


STUB = Stub("nowhere")


def views(caption: str, synonyms: Synonyms | None, strength: float = 0.1, n: int = 300):
    return [eda(caption, np.random.default_rng(seed), synonyms, strength) for seed in range(n)]


def kind(view: str, caption: str = CAPTION) -> str:
    """Tells which operation made a view of `caption`, by its words."""
    old, new = Counter(caption.split()), Counter(view.split())
    if view == caption:
        return "same"
    if old == new:
        return "swap"
    if not new - old:
        return "delete"
    return "replace" if old - new else "insert"


def test_the_draw_alone_decides():
    assert views(CAPTION, STUB) == views(CAPTION, STUB)


def test_all_four_operations_occur_about_equally():
    counts = Counter(map(kind, views(CAPTION, STUB, n=1000)))
    assert set(counts) == {"same", "swap", "delete", "replace", "insert"}
    for name in ("swap", "replace", "insert"):
        assert counts[name] == pytest.approx(250, abs=60), counts
    assert counts["delete"] + counts["same"] == pytest.approx(250, abs=60)


def test_without_synonyms_it_is_one_of_the_other_three():
    counts = Counter(map(kind, views(CAPTION, None, n=900)))
    assert set(counts) == {"same", "swap", "delete", "insert"}
    for name in ("swap", "insert"):
        assert counts[name] == pytest.approx(300, abs=60), counts


def test_replaced_words_are_content_words_and_keep_their_punctuation():
    replaced = {view for view in views(CAPTION, STUB) if kind(view) == "replace"}
    assert replaced == {
        CAPTION.replace("small", "little"),
        CAPTION.replace("small", "wee"),
        CAPTION.replace("Dog", "hound"),
        CAPTION.replace("beach", "shore"),
    }


def test_every_occurrence_is_replaced():
    assert "hound and (hound)" in views("dog and (Dog)", STUB)


def test_stop_words_are_neither_replaced_nor_inserted():
    class Any(Synonyms):
        def __call__(self, word: str) -> tuple[str, ...]:
            return (f"<{word}>",)

    inserted = {word for view in views("the cat and the mat", Any("")) for word in view.split()}
    assert inserted == {"the", "cat", "and", "mat", "<cat>", "<mat>"}


def test_inserted_words_are_synonyms_and_without_them_the_captions_own():
    old: Counter[str] = Counter(CAPTION.split())
    cases: list[tuple[Synonyms | None, set[str]]] = [
        (STUB, {"little", "wee", "hound", "shore"}),
        (None, {"small", "dog", "running", "beach", "7", "9", "dogs"}),
    ]
    for synonyms, words in cases:
        inserts = [
            Counter(v.split()) - old for v in views(CAPTION, synonyms) if kind(v) == "insert"
        ]
        assert {word for insert in inserts for word in insert} == words
        assert all(insert.total() == 1 for insert in inserts)


def test_inserts_come_at_every_place_the_ends_too():
    places = {view.split().index("y") for view in views("x y", None) if view.count("x") > 1}
    assert places == {1, 2}
    places = {view.split().index("x") for view in views("x y", None) if view.count("y") > 1}
    assert places == {0, 1}


def test_a_swap_is_of_two_different_words():
    assert views("x y", None, n=900).count("y x") == pytest.approx(300, abs=60)


def test_strength_is_the_share_of_words():
    caption = " ".join(f"w{i}" for i in range(20))
    for strength, words in ((0.1, 2), (0.3, 6), (0.01, 1)):
        lengths = Counter(len(view.split()) for view in views(caption, None, strength, n=600))
        assert max(lengths) == 20 + words
    deleted = [view for view in views(caption, None, 0.5, n=600) if kind(view, caption) == "delete"]
    assert np.mean([len(view.split()) for view in deleted]) == pytest.approx(10, abs=0.5)


def test_what_stands_around_a_word_and_within_it_stays():
    around = "(«dog»), _dog_ dog's rock'n'roll!? 7% éa—b …"
    parts = [_parts(word) for word in around.split()]
    assert [core for _, core, _ in parts] == [
        *("dog", "_dog_", "dog's", "rock'n'roll", "7", "éa—b", "")
    ]
    assert " ".join(map("".join, parts)) == around


def test_a_caption_of_one_endless_word_takes_no_time():
    began = time.process_time()
    for caption in ("a" + "!" * 100_000 + "b", "!" * 100_000, "a!" * 50_000):
        views(caption, STUB, n=3)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("caption", ["", "  ", "!!! ...", "— …", "?"])
def test_a_caption_without_words_is_its_own_view(caption: str):
    assert set(views(caption, STUB)) == {caption}


@pytest.mark.parametrize("strength", [0.1, 0.99])
def test_one_word_is_never_lost(strength: float):
    assert all("7" in view for view in views("7", None, strength))


def test_spaces_stay_where_nothing_changes():
    assert "a  cat \n" in views("a  cat \n", None)


def test_no_strength_is_no_change():
    assert set(views(CAPTION, STUB, strength=0.0)) == {CAPTION}


def test_other_alphabets_are_augmented():
    assert {kind(view, "красная собака спит") for view in views("красная собака спит", None)} == {
        "same",
        "swap",
        "insert",
        "delete",
    }
