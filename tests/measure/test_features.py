"""Features: computed once, kept, checked; ragged batches and unreadable pictures."""

import os

import jax
import numpy as np
import pytest
from helpers.small_pictures import Pictures

from cleanclip_jax.attacks.plan import make_plan
from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure import features as embeddings
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.feature_cache import load_features, save_features
from cleanclip_jax.measure.features import Reading, Shown, embed

KEPT, FRESH = Reading(4, cache=1.0), Reading(4)
TRIGGER = make_trigger({"name": "badnet", "size": 4})


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures went through the image tower."""
    counts = []
    real = Encoder.image_features
    monkeypatch.setattr(
        Encoder, "image_features", lambda *args: counts.append(len(args[1])) or real(*args)
    )
    return counts


def shown(source, **options):
    return Shown(source, np.flatnonzero(source.labels() >= 0), **options)


def test_a_ragged_last_batch_is_counted_once_on_one_device_and_eight(make_encoder, encoded):
    source = Pictures([0, 1, 2, -1, 3, 0, 1, 2, 3, 0])
    one, eight = (embed(make_encoder(n), shown(source), FRESH) for n in (1, 8))
    assert one.index.tolist() == eight.index.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert encoded == [4, 4, 1, 8, 1]  # a batch of four is filled up to eight devices
    np.testing.assert_allclose(one.rows, eight.rows, rtol=1e-4, atol=1e-5)
    assert one.rows.shape == (9, make_encoder().model.variant.features)
    assert (np.abs(np.linalg.norm(one.rows, axis=1) - 1) > 1e-3).any()  # un-normalised


def test_features_are_computed_once(make_encoder, encoded, cache, caplog):
    source = Pictures([0, 1, 2, 3, 0])
    first = embed(make_encoder(), shown(source), KEPT)
    assert encoded == [4, 1]
    again = embed(make_encoder(), shown(source), KEPT)
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.index, again.index)
    assert encoded == [4, 1] and isinstance(again.rows, np.memmap)
    assert not caplog.records
    # Labels are no part of the features.
    embed(make_encoder(), shown(Pictures([3, 2, 1, 0, 0])), KEPT)
    assert encoded == [4, 1] and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda s, p: (s(seed=1), shown(p)),
        lambda s, p: (s(), Shown(p, np.arange(4))),
        lambda s, p: (s(), shown(p, trigger=TRIGGER)),
        lambda s, p: (s(), shown(Pictures(p.labels(), seed=1))),
    ],
    ids=["weights", "which pictures", "trigger", "source"],
)
def test_other_features_are_others(change, make_encoder, encoded, cache):
    source = Pictures([0, 1, 2, 3, 0])
    first = embed(make_encoder(), shown(source), KEPT)
    encoder, pictures = change(make_encoder, source)
    other = embed(encoder, pictures, KEPT)
    assert len(encoded) > 2 and len(list(cache.iterdir())) == 2
    rows = min(len(first.rows), len(other.rows))
    assert len(other.rows) != 5 or not np.allclose(first.rows[:rows], other.rows)


def test_the_training_set_as_poisoned(make_encoder, encoded, cache):
    source = Pictures([0, 1, 2, 3, 0, 1, 2, 3])
    attack = {"trigger": TRIGGER.config, "target": "one", "count": 3}
    plan = make_plan(attack, source, 16)
    clean, poisoned, triggered = (
        embed(make_encoder(), shown(source, **options), KEPT).rows
        for options in ({}, {"plan": plan}, {"trigger": TRIGGER})
    )
    replaced = (clean != poisoned).any(1)
    assert np.flatnonzero(replaced).tolist() == plan.index.tolist()
    np.testing.assert_array_equal(poisoned[replaced], triggered[replaced])
    # Another plan is another entry of the cache, and the same one is the one before.
    count = len(encoded)
    embed(make_encoder(), shown(source, plan=make_plan({**attack, "seed": 1}, source, 16)), KEPT)
    embed(make_encoder(), shown(source, plan=plan), KEPT)
    assert len(encoded) == count + 2 and len(list(cache.iterdir())) == 4


def test_pictures_replaced_behind_their_fingerprint_are_noticed(make_encoder, encoded, cache):
    """A CSV's fingerprint covers its paths, not the files there."""
    source, other = Pictures([0, 1, 2, 3]), Pictures([0, 1, 2, 3], seed=1)
    other.fingerprint = source.fingerprint
    first, second = (embed(make_encoder(), shown(s), KEPT) for s in (source, other))
    assert encoded == [4, 4] and not np.allclose(first.rows, second.rows)


def test_a_damaged_file_is_noticed_and_made_again(make_encoder, encoded, cache, caplog):
    source = Pictures([0, 1, 2, 3])
    first = embed(make_encoder(), shown(source), KEPT)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    flipped = bytes([whole[150] ^ 1])
    for broken, reason in (
        (whole[:-40], "Failed to read all data"),
        (whole[:150] + flipped + whole[151:], "its checksum is another"),
        (whole[:8] + whole[12:], "header"),
        (b"", "No data left in file"),
    ):
        path.write_bytes(broken)
        caplog.clear()
        again = embed(make_encoder(), shown(source), KEPT)
        np.testing.assert_array_equal(first.rows, again.rows)
        (record,) = caplog.records
        assert "damaged" in record.getMessage() and reason in record.getMessage()
        assert "\n" not in record.getMessage()
        assert path.read_bytes() == whole
    assert encoded == [4] * 5


def test_unreadable_pictures_are_left_out_and_come_back_when_mended(
    make_encoder, encoded, cache, monkeypatch
):
    monkeypatch.setattr(embeddings, "SAMPLE", 2)  # the first and the last
    source = Pictures([0, 1, 2, 3, 0, 1], bad=[2])
    reading = Reading(4, max_bad_share=0.2, cache=1.0)
    for _ in range(2):
        features = embed(make_encoder(), shown(source), reading)
        assert features.index.tolist() == [0, 1, 3, 4, 5]
        assert features.unreadable == {2: "picture 2: broken."}
    assert encoded == [3, 2]  # of four and two
    mended = Pictures([0, 1, 2, 3, 0, 1])
    features = embed(make_encoder(), shown(mended), reading)
    assert features.index.tolist() == list(range(6)) and not features.unreadable
    with pytest.raises(UserError, match=r"1 of 6 pictures are unreadable.*picture 2: broken"):
        embed(make_encoder(), shown(source), Reading(4, max_bad_share=0.1))
    with pytest.raises(UserError, match="the set is empty"):
        embed(make_encoder(), shown(Pictures([-1])), FRESH)


def test_nan_features_are_refused_and_not_saved(make_encoder, cache):
    encoder = make_encoder()
    broken = jax.tree.map(lambda x: x * np.nan, encoder.variables)
    lost = Encoder(encoder.model, broken, encoder.tokenizer, encoder.mesh)
    with pytest.raises(UserError, match="features of 3 of 3 pictures are not finite"):
        embed(lost, shown(Pictures([0, 1, 2])), KEPT)
    assert not list(cache.glob("*"))


def test_the_folder_is_bounded_and_the_newest_stay(cache, caplog):
    rows = np.ones((1000, 10), np.float32)  # 40 kB and a note
    for age, name in enumerate("abc"):
        save_features(cache / f"{name}.npy", rows, {}, limit=1)
        os.utime(cache / f"{name}.npy", (1000 + age, 1000 + age))
    assert load_features(cache / "a.npy") is not None  # used last
    save_features(cache / "d.npy", rows, {}, limit=90e-6)
    assert sorted(path.name for path in cache.iterdir()) == ["a.npy", "d.npy"]
    save_features(cache / "e.npy", rows, {}, limit=30e-6)
    assert not (cache / "e.npy").exists() and "not saved" in caplog.text
    assert load_features(cache / "none.npy") is None


def test_a_cache_that_cannot_be_written_stops_nothing(make_encoder, cache, caplog):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, no folder")
    features = embed(make_encoder(), shown(Pictures([0, 1])), KEPT)
    assert len(features.rows) == 2 and "are not saved in" in caplog.text
