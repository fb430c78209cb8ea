"""Retrieval's ranks against all pairs at once; ties, several captions, one device and eight."""

import jax
import numpy as np
import pytest

from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.measure.retrieval import (
    Ranks,
    backdoor_figures,
    count_before,
    retrieval_figures,
    retrieval_ranks,
)
from cleanclip_jax.sharding import make_mesh


def random_rows(count, seed, width=8):
    return unit(np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32))


def counts(figures):
    return {n: (f.count, f.of) for n, f in figures.items() if f.unit == "share"}


def by_hand(images, texts, owner):
    """Ranks from the whole table of scores, in float64."""
    scores = images.astype(np.float64) @ texts.T.astype(np.float64)
    of_texts, of_images = [], []
    for i, row in enumerate(scores):
        mine = owner == i
        best = row[mine].max() if mine.any() else -np.inf
        of_texts.append(int((row[~mine] >= best - 1e-6).sum()))
    for j, column in enumerate(scores.T):
        others = np.arange(len(images)) != owner[j]
        of_images.append(int((column[others] >= column[owner[j]] - 1e-6).sum()))
    return of_texts, of_images


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("block", [4096, 3])
def test_blocks_give_what_the_whole_table_gives(devices, block):
    """Nineteen pictures, one of them without a caption, the others with one to four."""
    images = random_rows(19, 0)
    owner = np.repeat(np.arange(18), np.random.default_rng(2).integers(1, 5, 18))
    texts = unit(images[owner] + 0.8 * random_rows(len(owner), 1))
    ranks = retrieval_ranks(images, texts, owner, make_mesh(devices), block)
    of_texts, of_images = by_hand(images, texts, owner)
    assert ranks.of_texts.tolist() == of_texts
    assert ranks.of_images.tolist() == of_images
    assert ranks.of_texts[18] == len(texts) and sum(of_images) > 0


def test_a_pictures_best_caption_counts():
    """Two pictures with two captions: the second's own captions are no mistakes of each other."""
    images = np.eye(2, dtype=np.float32)
    texts = unit(np.array([[1, 0.9], [1, 0.1], [0.1, 1], [0.9, 1]], np.float32))
    owner = np.array([0, 0, 1, 1])
    ranks = retrieval_ranks(images, texts, owner, make_mesh(1))
    assert ranks.of_texts.tolist() == [0, 0] and ranks.of_images.tolist() == [0, 0, 0, 0]
    swapped = retrieval_ranks(images, texts, np.array([0, 1, 0, 1]), make_mesh(1))
    assert swapped.of_texts.tolist() == [1, 1] and swapped.of_images.tolist() == [0, 1, 1, 0]


def test_ties_count_against_the_match():
    """A model that says the same of everything retrieves nothing."""
    images, texts = np.ones((5, 4), np.float32) / 2, np.ones((10, 4), np.float32) / 2
    owner = np.repeat(np.arange(5), 2)
    ranks = retrieval_ranks(images, texts, owner, make_mesh(1))
    assert (ranks.of_texts == 8).all() and (ranks.of_images == 4).all()


def test_figures_by_hand():
    ranks = Ranks(np.array([0, 3, 99, 0]), np.array([0, 5, 6, 0, 1, 0, 0, 0, 0, 0, 0, 0]))
    figures = retrieval_figures(ranks, np.array([True, True, False, True]))
    assert counts(figures) == {
        "image_to_text_r1": (2, 3),
        "image_to_text_r5": (3, 3),
        "image_to_text_r10": (3, 3),
        "text_to_image_r1": (9, 12),  # among four pictures a top 5 can't miss
    }
    assert figures["image_to_text_median_rank"].value == 1
    assert figures["text_to_image_median_rank"].to_json()["of"] == 12


def test_memory_does_not_grow_with_the_pairs():
    """A block of 512 x 512 needs its scores, whatever the numbers of pictures and captions."""
    mesh, width = make_mesh(1), 64

    def block(rows):
        return {
            "rows": jax.ShapeDtypeStruct((rows, width), np.float32),
            "score": jax.ShapeDtypeStruct((rows,), np.float32),
            "number": jax.ShapeDtypeStruct((rows,), np.int32),
        }

    compiled = count_before.lower(block(512), block(512)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 6 * 4 * 512 * 512
    sizes = count_before._cache_size  # pyright: ignore[reportAttributeAccessIssue]
    before = sizes()
    images, texts = random_rows(1200, 0, width), random_rows(3000, 1, width)
    retrieval_ranks(images, texts, np.arange(3000) % 1200, mesh, 512)
    # One shape, whatever is left over in the last blocks.
    assert sizes() == before + 1


def test_the_backdoor_lifts_pictures_by_hand():
    """Four pictures in a row from the query; triggered ones lie on it."""
    angles = np.array([0.3, 0.6, 0.9, 1.2])
    clean = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    query = np.array([[1, 0]], np.float32)
    lifted = np.tile(query, (4, 1))
    figures = backdoor_figures(clean, lifted, query, 0.25, seed=0)
    assert counts(figures)["backdoor_r1"] == (4, 4)
    assert counts(figures)["backdoor_queries_r1"] == (1, 1)
    assert figures["backdoor_median_rank"].value == 1
    chosen = np.random.default_rng(0).choice(4, 1, replace=False)[0]
    assert counts(figures)["backdoor_control_r1"] == (int(chosen == 0), 1)
    # A trigger that changes nothing leaves each picture at the rank it had: 1, 2, 3, 4.
    same = backdoor_figures(clean, clean, query, 0.25, seed=0)
    assert counts(same)["backdoor_r1"] == (1, 4) and same["backdoor_median_rank"].value == 2.5
    # Behind its own clean copy a picture stands first all the same.
    behind = clean.copy()
    behind[0] = [np.cos(0.31), np.sin(0.31)]
    assert counts(backdoor_figures(clean, behind, query, 0.25, 0))["backdoor_r1"] == (1, 4)
    # Two queries: each picture is looked for with one of them.
    two = backdoor_figures(clean, lifted, np.eye(2, dtype=np.float32), 0.25, seed=0)
    assert counts(two)["backdoor_r1"] == (2, 4) and counts(two)["backdoor_queries_r1"][1] == 2
