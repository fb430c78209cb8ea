"""A planted natural backdoor is the top group; placeholders are another kind; chance is counted."""

import numpy as np
from helpers.made_pairs import MadePairs

from cleanclip_jax.detect.detectors import DETECTORS
from cleanclip_jax.detect.embedded import Data, numbers_of
from cleanclip_jax.detect.groups import find_groups
from cleanclip_jax.detect.scan import Pass, scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.measure.ranks import unit


def groups_of(encoder, source, folder):
    settings, reading = Settings(("slof",), sample=120, draws=2, k=8), Reading(64)
    run = Pass("run", lambda: encoder, {"slof": DETECTORS["slof"]})
    scores = scan([run], Data(source), settings, reading, folder)
    return find_groups(encoder, Data(source), scores, settings, "slof", reading)


def test_a_natural_backdoor_is_the_top_group(made_encoder, tmp_path):
    """The cake: one caption with pictures alike, once in a hundred pairs."""
    source = MadePairs(1200)
    rows = source.plant(np.arange(12) * 97 + 5, "a birthday cake with candles", noise=8)
    source.captions[44] = source.captions[45] = "a caption that is there twice"
    top = groups_of(made_encoder(), source, tmp_path)[0]
    assert (
        top.caption == "a birthday cake with candles"
        and set(top.ids) <= set(rows.tolist())
        and len(top.ids) == 5
    )
    assert top.kind == "one caption, many pictures alike" and top.alike > 0.95
    assert top.size >= 10 and top.in_data == 12 and top.p < 1e-10
    assert 80 < top.times_chance <= 100  # all of a hundredth


def test_one_picture_under_many_captions(made_encoder, tmp_path):
    source = MadePairs(1200)
    source.plant(np.arange(10) * 101 + 3, noise=2)
    (group,) = (g for g in groups_of(made_encoder(), source, tmp_path) if "many captions" in g.kind)
    assert group.size >= 8 and group.caption.startswith("another topic")
    assert group.in_data >= group.size  # what the references show of it


def test_numbers_tell_pictures_apart_but_for_rounding():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(4000, 64)).astype(np.float32))
    rounded = rows + rng.normal(0, 1e-8, rows.shape).astype(np.float32)
    numbers = numbers_of(rows)
    assert len(np.unique(numbers)) == 4000
    assert (numbers_of(rounded) == numbers).mean() > 0.99
    close = unit(rows + rng.normal(0, 0.02 / 8, rows.shape).astype(np.float32))
    assert (numbers_of(close) == numbers).mean() < 0.01
