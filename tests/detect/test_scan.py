"""A scan: what it finds, in parts, stopped and gone on with; what it refuses."""

import logging

import numpy as np
import pytest
from helpers.made_pairs import MadeEncoder, MadePairs

from cleanclip_jax.detect import scan as scans
from cleanclip_jax.detect import scan_settings
from cleanclip_jax.detect.detectors import DETECTORS, choose
from cleanclip_jax.detect.embedded import Data
from cleanclip_jax.detect.published import Block
from cleanclip_jax.detect.roc import auroc
from cleanclip_jax.detect.scan import Pass, scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.features import Reading

USUAL = ("slof", "kdist", "dao", "clip_low", "clip_high", "safeclip")
READING = Reading(64, max_bad_share=0.05)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(scan_settings, "PART", 100)


def run_of(encoder, names=USUAL):
    parts = {p: DETECTORS[p] for name in names for p in (*DETECTORS[name].of, name)}
    return Pass("run", lambda: encoder, {n: row for n, row in parts.items() if row.score})


def scanned(encoder, source, folder, reading=READING, **options):
    settings = Settings(
        options.pop("detectors", USUAL), **{"sample": 120, "draws": 2, "k": 8, **options}
    )
    run = run_of(encoder, settings.detectors)
    return scan([run], Data(source), settings, reading, folder)


def test_rare_poisons_are_found(made_encoder, tmp_path):
    source = MadePairs(600)
    poisons = np.isin(np.arange(600), source.plant([7, 99, 205, 350, 351, 599]))
    scores = scanned(made_encoder(), source, tmp_path)
    assert scores.index.tolist() == list(range(600)) and list(scores.columns) == list(USUAL)
    for name in ("slof", "kdist", "dao"):
        assert auroc(scores.columns[name][poisons], scores.columns[name][~poisons])[0] > 0.95
    assert poisons[scores.top("kdist", 0.01)].sum() >= 5  # of six
    np.testing.assert_array_equal(scores.columns["clip_low"], -scores.columns["clip_high"])
    np.testing.assert_allclose(scores.columns["clip_high"], scores.cosines)


def test_a_stopped_scan_goes_on_where_it_was(made_encoder, tmp_path, monkeypatch):
    source, encoder = MadePairs(400), made_encoder()
    whole = scanned(encoder, source, tmp_path / "whole")
    write, left = scans.write_whole, [3]

    def stops(path, content):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(scans, "write_whole", stops)
    with pytest.raises(KeyboardInterrupt):
        scanned(encoder, source, tmp_path / "stopped")
    parts = sorted((tmp_path / "stopped" / "parts").iterdir())
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:500])  # torn, as no write of ours leaves it
    monkeypatch.setattr(scans, "write_whole", write)
    MadeEncoder.counts[:] = [0, 0]
    again = scanned(encoder, source, tmp_path / "stopped")
    drawn = len(np.unique(Settings(USUAL, sample=120, draws=2).references(400)))
    assert MadeEncoder.counts == [200 + drawn] * 2
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(column, again.columns[name])


def test_embeddings_are_computed_once(made_encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
    reading = Reading(64, cache=1.0)
    first = scanned(made_encoder(), MadePairs(300), tmp_path / "a", reading)
    again = scanned(made_encoder(), MadePairs(300), tmp_path / "b", reading)
    assert MadeEncoder.counts == [0, 0]
    np.testing.assert_array_equal(first.columns["slof"], again.columns["slof"])
    scanned(made_encoder(1), MadePairs(300), tmp_path / "c", reading)
    assert min(MadeEncoder.counts) >= 300  # another model's are others


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"source": 1}, "pairs are not as now"),
        ({"encoder": 1}, "model is not as now"),
        ({"k": 4}, "settings are not as now"),
    ],
)
def test_parts_of_another_scan_are_refused(change, what, made_encoder, tmp_path):
    scanned(made_encoder(), MadePairs(200), tmp_path)
    with pytest.raises(UserError, match=f"holds a scan that was stopped, and its {what}: remove"):
        scanned(
            made_encoder(change.get("encoder", 0)),
            MadePairs(200, change.get("source", 0)),
            tmp_path,
            k=change.get("k", 8),
            sample=120,
        )


def test_unreadable_pairs_and_those_without_a_caption_are_left_out(made_encoder, tmp_path):
    source = MadePairs(200)
    source.bad, source.captions[20] = (3, 120), "  "
    scores = scanned(made_encoder(), source, tmp_path / "some")
    assert scores.index.tolist() == [i for i in range(200) if i not in (3, 20, 120)]
    assert scores.unreadable == {i: f"made row {i}: broken." for i in (3, 120)}
    assert scores.without_caption == 1
    with pytest.raises(UserError, match=r"2 of 200 pairs are unreadable.*made row 3: broken"):
        scanned(made_encoder(), source, tmp_path / "few", Reading(64, max_bad_share=0.005))


def test_copies_are_counted_over_all_parts(made_encoder, tmp_path):
    source = MadePairs(300)
    source.plant([5, 150, 299], noise=0)
    scores = scanned(made_encoder(), source, tmp_path)
    assert scores.copies[[5, 150, 299]].tolist() == [3, 3, 3]
    assert (np.delete(scores.copies, [5, 150, 299]) == 1).all()
    assert len(np.unique(scores.columns["slof"][[5, 150, 299]].round(5))) == 1


def test_the_published_way(made_encoder, tmp_path):
    source, encoder = MadePairs(200), made_encoder()
    names = choose(None, "original")
    assert {"slof", "kdist", "dao", "clip_low"} <= set(names)
    scores = scanned(
        encoder, source, tmp_path, detectors=names, neighbours="original", block=80, seed=3
    )
    order = np.random.default_rng(3).permutation(200)[80:160]
    images = encoder.image_features(source.images[order], 64)
    texts = encoder.text_features([source.captions[i] for i in order])
    want = Block(images, texts).slof(8)
    np.testing.assert_allclose(scores.columns["slof"][order], want, rtol=1e-5)
    with pytest.raises(UserError, match="a block of 10 pairs is too small for k = 16"):
        scanned(encoder, source, tmp_path / "b", neighbours="original", block=95, k=16)


def test_what_can_not_be_scored_is_one_line(made_encoder, tmp_path):
    with pytest.raises(UserError, match="--k=16 is no less than --sample=16"):
        Settings(USUAL, sample=16)
    with pytest.raises(UserError, match="of 10 reference pairs 10 have different pictures"):
        scanned(made_encoder(), MadePairs(10), tmp_path, k=16)
    with pytest.raises(UserError, match="--k=1: give 2 or more"):
        Settings(USUAL, k=1)
    with pytest.raises(UserError, match="--neighbours: unknown 'wrong'"):
        Settings(USUAL, neighbours="wrong")
    with pytest.raises(UserError, match="clip_rise compares with a clean model: name it by --flo"):
        choose(["clip_rise"])
    with pytest.raises(UserError, match="loss is not of the published code"):
        choose(["loss"], "original")
    with pytest.raises(UserError, match=r"--detectors: unknown 'slaf'. Did you mean 'slof'"):
        choose(["slaf"])


def test_progress_says_how_long_it_takes(made_encoder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(scans, "EVERY", 0)
    with caplog.at_level(logging.INFO):
        scanned(made_encoder(), MadePairs(300), tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert "run: 100 of 300 pairs scored" in lines[0] and "min left" in lines[0]
    assert len(lines) == 2
