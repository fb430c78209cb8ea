"""Detectors against golden values: the right neighbours, a shared reference, the other scores."""

import jax
import numpy as np
import pytest

from cleanclip_jax.detect import neighbours
from cleanclip_jax.detect.detectors import (
    DETECTORS,
    Draw,
    Pairs,
    detector,
    isolation_forest,
    local_dimension,
    score_pairs,
    split,
)
from cleanclip_jax.detect.neighbours import References
from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import make_mesh


def load(golden, case, rows=slice(None)):
    arrays = golden(f"detectors_{case}")
    images, texts = (
        arrays[f"inputs/{case}/{side}"].astype(np.float32) for side in ("image", "text")
    )
    return Pairs(images[rows], texts[rows], np.arange(512)[rows])


def draw_of(pairs, k=16, devices=1):
    return Draw(pairs.images, pairs.texts, pairs.index, k, make_mesh(devices))


def scores_of(name, pairs, draw=None):
    score = DETECTORS[name].score
    assert score is not None
    return score(pairs, draw)


def close(got, want, tolerance):
    scale = np.abs(want).max()
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["a", "b"])
def test_right_neighbours(golden, case):
    """DAO's authors' code has SLOF and DAO as powers."""
    pairs, arrays = load(golden, case), golden(f"detectors_{case}")
    draw = draw_of(pairs)
    found = pairs.neighbours(draw)
    close(found.distance[:, -1], arrays[f"kdist/{case}-image-right/score"], 1e-5)
    close(local_dimension(found), arrays[f"lid/{case}-image-right/score"], 1e-4)
    ratios = found.distance[:, -1:] / np.exp(draw.radius)[found.rows]
    close(ratios.mean(1), arrays[f"slof/{case}-image-right/score"], 1e-5)
    powers = (ratios ** draw.dimension[found.rows]).mean(1)
    # Distances of float32, to a power of 40 and more.
    close(powers, arrays[f"dao/{case}-image-right/score"], 1e-3)


@pytest.mark.parametrize("devices", [1, 8])
def test_one_shared_reference(golden, devices):
    arrays = golden("detectors_a")
    pairs, draw = (
        load(golden, "a"),
        draw_of(load(golden, "a", arrays["inputs/reference/index"]), devices=devices),
    )
    rows = {name: DETECTORS[name] for name in ("kdist", "slof", "dao", "lid")}
    scores = score_pairs(rows, pairs, [draw, draw])
    close(np.exp(scores["kdist"]), arrays["kdist/reference/score"], 1e-5)
    close(scores["slof"], arrays["slof/reference/score"], 1e-5)
    close(scores["dao"], arrays["dao/reference/score"], 1e-4)
    close(scores["lid"], arrays["lid/reference/score"], 1e-4)


def test_equal_pictures_are_one(golden):
    """Their copies change no score but of the group's, which all get the same."""
    pairs = load(golden, "a")
    plain = draw_of(pairs)
    copies = np.concatenate([np.arange(512), np.full(40, 7), np.full(30, 300)])
    many = draw_of(Pairs(pairs.images[copies], pairs.texts[copies], copies))
    rows = {name: DETECTORS[name] for name in ("kdist", "slof", "dao")}
    assert many.references.distinct == 512
    for one, other in zip(
        score_pairs(rows, pairs, [plain]).values(),
        score_pairs(rows, pairs, [many]).values(),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_groups_of_columns_lose_no_neighbour():
    rng = np.random.default_rng(0)
    for count, k in ((17, 16), (400, 30)):
        rows, queries = (rng.normal(size=(n, 5)).astype(np.float32) for n in (count, 9))
        found = References(rows, k, make_mesh(1)).nearest(queries)
        exact = np.linalg.norm(queries[:, None] - rows[None], axis=-1)
        np.testing.assert_array_equal(found.rows, np.argsort(exact, 1)[:, :k])
        np.testing.assert_allclose(found.distance, np.sort(exact, 1)[:, :k], rtol=1e-4)


def test_products_are_exact_on_every_device():
    jaxpr = jax.make_jaxpr(neighbours._nearest, static_argnums=2)(
        {"rows": np.zeros((2, 8), np.float32), "squares": np.zeros(2, np.float32)},
        {"rows": np.zeros((64, 8), np.float32), "offsets": np.zeros(64, np.float32)},
        4,
    )
    assert "Precision.HIGHEST" in str(jaxpr)


@pytest.mark.parametrize("case", ["a", "b"])
def test_cosines_and_their_split(golden, case):
    pairs, arrays = load(golden, case), golden(f"detectors_{case}")
    cosines = scores_of("clip_high", pairs)
    close(cosines, arrays[f"clip_score/{case}/score"], 1e-5)
    np.testing.assert_array_equal(scores_of("clip_low", pairs), -cosines)
    if case == "b":  # in a scikit-learn's k-means, which draws its start, misses the best cut
        probability = arrays["safeclip/b/clean_probability"]
        np.testing.assert_allclose(1 - split(cosines), probability, atol=1e-4)


@pytest.mark.slow  # scikit-learn takes its time to load
@pytest.mark.parametrize("case", ["a", "b"])
def test_the_forest(golden, case):
    pairs, arrays = load(golden, case), golden(f"detectors_{case}")
    ours = isolation_forest(pairs.images, 0).score_samples(pairs.images)
    want = arrays[f"iforest/{case}-image-seeded/score"]  # of scikit-learn 1.9.1
    assert np.corrcoef(ours.argsort().argsort(), want.argsort().argsort())[0, 1] > 0.97


def test_losses_against_fixed_negatives(golden):
    pairs, arrays = load(golden, "a"), golden("detectors_a")
    draw = draw_of(pairs)
    several = []
    for epoch, scale in enumerate((1 / 0.07, 30.0, 100.0)):
        scaled = Pairs(pairs.images, pairs.texts, pairs.index, scale)
        several.append(scores_of("loss", scaled, draw))
        close(-several[-1], arrays[f"abl/a/loss_epoch{epoch}"], 1e-5)
    close(np.mean(several, axis=0), arrays["abl/a/score"], 1e-5)


def test_too_few_references_are_one_line(golden):
    pairs = load(golden, "a", slice(16))
    with pytest.raises(
        UserError, match="of 16 reference pairs 16 have different pictures, too few"
    ):
        draw_of(pairs)
    one = Pairs(pairs.images[:1], pairs.texts[:1], pairs.index[:1])
    with pytest.raises(UserError, match="of 1 reference pairs 1 have different pictures"):
        draw_of(one)


def test_a_detector_of_ones_own(golden, monkeypatch):
    monkeypatch.setattr(DETECTORS, "_rows", dict(DETECTORS._rows))
    pairs = load(golden, "a")
    draw = draw_of(pairs)

    @detector("brightest")
    def brightest(pairs, draw):
        return pairs.images.sum(1)

    @detector("wrong")
    def wrong(pairs, draw):
        if len(pairs.images) > 1:
            return pairs.images
        raise ZeroDivisionError

    rows = {name: DETECTORS[name] for name in ("brightest",)}
    np.testing.assert_allclose(
        score_pairs(rows, pairs, [draw])["brightest"], pairs.images.sum(1), rtol=1e-6
    )
    with pytest.raises(UserError, match=r"wrong gave \(512, 64\) scores of 512 pairs"):
        score_pairs({"wrong": DETECTORS["wrong"]}, pairs, [draw])
    with pytest.raises(UserError, match="wrong: ZeroDivisionError"):
        score_pairs(
            {"wrong": DETECTORS["wrong"]},
            Pairs(pairs.images[:1], pairs.texts[:1], pairs.index[:1]),
            [draw],
        )
