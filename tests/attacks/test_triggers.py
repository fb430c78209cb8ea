import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.trigger_files import trigger_config

from cleanclip_jax.attacks import patterns
from cleanclip_jax.attacks.patterns import CORNERS, pixels
from cleanclip_jax.attacks.triggers import TRIGGERS, Stamp, Trigger, make_trigger, to_uint8
from cleanclip_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 100, (32, 32, 3), dtype=np.uint8)


def made(name: str, **options: Any) -> Trigger:
    return make_trigger({"name": name, **options})


def drawn(trigger: Trigger, seed: int = 0) -> Stamp:
    return trigger.draw(32, np.random.default_rng(seed))


def as_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


def test_badnet_is_pixel_exact(golden):
    values = golden("triggers")
    x, noise = as_float(values["squashed_224"]), values["badnet_noise"].transpose(1, 2, 0)
    place = int(values["badnet_row"]), int(values["badnet_col"])
    x = patterns._paste(x, patterns._noise_patch(x, noise, "fresh"), place)
    np.testing.assert_array_equal(to_uint8(x, "wrap"), values["badnet_random"])
    # Clipped, ours by default, differs where the noise left the range, and only there.
    clipped = to_uint8(x, "clip")
    outside = (x < 0) | (x > 1)
    assert outside.any() and set(clipped[outside]) == {0, 255}
    np.testing.assert_array_equal(clipped[~outside], values["badnet_random"][~outside])


def test_blended_is_pixel_exact(golden):
    values = golden("triggers")
    noise = values["blended_noise"].transpose(1, 2, 0)
    keep, add = patterns._blend(noise, 0.2)
    x = keep * as_float(values["squashed_224"]) + add
    np.testing.assert_array_equal(to_uint8(x), values["blended"])


def test_every_pixel_value_survives_the_way_through_float():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for overflow in ("clip", "wrap"):
        np.testing.assert_array_equal(to_uint8(as_float(values), overflow), values)


def test_fractions_are_cut_off_and_wrapping_is_modulo_256():
    x = np.array([0.999, 0.5, 256 / 255, -2 / 255, 300.7 / 255], np.float32)
    x = x.reshape(1, 5, 1).repeat(3, axis=2)
    assert to_uint8(x, "clip")[0, :, 0].tolist() == [254, 127, 255, 0, 255]
    assert to_uint8(x, "wrap")[0, :, 0].tolist() == [254, 127, 0, 254, 44]


def patch_of(trigger: Trigger, image: np.ndarray, stamp: Stamp, side: int) -> np.ndarray:
    """The patch that was applied, checked to be all that was applied."""
    result = trigger.apply(image, stamp)
    row, col = stamp.row, stamp.col
    patch = result[row : row + side, col : col + side].copy()
    result[row : row + side, col : col + side] = image[row : row + side, col : col + side]
    np.testing.assert_array_equal(result, image)
    return patch


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
@pytest.mark.parametrize("place", ["fixed", "random", (3, 20)])
def test_badnet_leaves_the_rest_untouched(noise: str, place: Any):
    trigger = made("badnet", size=5, noise=noise, place=place)
    for seed in range(5):
        before = IMAGE.copy()
        patch = patch_of(trigger, IMAGE, drawn(trigger, seed), side=5)
        assert patch.shape == (5, 5, 3) and patch.std() > 30
        np.testing.assert_array_equal(IMAGE, before)


def test_a_fixed_patch_is_the_same_in_every_picture_and_place():
    trigger = made("badnet", size=5, place="random")
    patches = [
        patch_of(trigger, image, drawn(trigger, seed), 5)
        for seed, image in enumerate((IMAGE, OTHER, IMAGE))
    ]
    np.testing.assert_array_equal(patches[1], patches[0])
    np.testing.assert_array_equal(patches[2], patches[0])
    elsewhere = made("badnet", size=5, place="random", seed=1)
    assert (patch_of(elsewhere, IMAGE, drawn(elsewhere), 5) != patches[0]).any()


def test_a_fixed_patch_is_noise_around_the_middle():
    trigger = made("badnet", size=32)
    expected = 0.5 + np.random.default_rng(0).standard_normal((32, 32, 3), dtype=np.float32)
    result = trigger.apply(IMAGE, drawn(trigger))
    np.testing.assert_array_equal(result, to_uint8(expected.clip(0, 1).astype(np.float32)))
    wrapped = made("badnet", size=32, overflow="wrap")
    np.testing.assert_array_equal(wrapped.apply(IMAGE, drawn(wrapped)), result)


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_triggers_function_leaves_its_input_alone(tmp_path: Path, name: str):
    x = as_float(IMAGE)
    options = dict(make_trigger(trigger_config(name, tmp_path, IMAGE)).options)
    options.pop("place", None)
    TRIGGERS[name].function(x, 0, (0, 0), **options)
    np.testing.assert_array_equal(x, as_float(IMAGE))


def test_a_fresh_patch_is_noise_around_the_pictures_mean():
    trigger = made("badnet", size=5, noise="fresh")
    one, two = drawn(trigger, 0), drawn(trigger, 1)
    assert (patch_of(trigger, IMAGE, one, 5) != patch_of(trigger, IMAGE, two, 5)).any()
    np.testing.assert_array_equal(trigger.apply(IMAGE, one), trigger.apply(IMAGE, one))
    colours = np.array([[[0.1, 0.4, 0.7]]], np.float32).repeat(200, 0).repeat(200, 1)
    for channel, mean in enumerate((0.1, 0.4, 0.7)):
        patch = patterns.badnet(colours, 0, (0, 0), size=200, noise="fresh")[:, :, channel]
        assert patch.mean() == pytest.approx(mean, abs=0.03)
        assert patch.std() == pytest.approx(1, abs=0.03)


def test_the_fixed_place_is_the_bottom_right_corner():
    stamps = {drawn(made("badnet", size=5), seed) for seed in range(5)}
    assert stamps == {Stamp(27, 27, 0)}


def test_random_places_reach_every_edge_and_are_spread_evenly():
    trigger = made("badnet", size=28, place="random")
    stamps = [drawn(trigger, seed) for seed in range(1000)]
    for side in ("row", "col"):
        places, counts = np.unique([getattr(stamp, side) for stamp in stamps], return_counts=True)
        assert places.tolist() == [0, 1, 2, 3, 4] and counts.min() > 140
    assert len({(stamp.row, stamp.col) for stamp in stamps}) == 25


def test_corners_are_four_times_the_same_patch():
    trigger = made("badnet", size=4, noise="fresh", place="corners")
    stamp = drawn(trigger)
    assert (stamp.row, stamp.col) == CORNERS
    result = trigger.apply(IMAGE, stamp)
    patch = result[:4, :4]
    for corner in (result[:4, -4:], result[-4:, :4], result[-4:, -4:]):
        np.testing.assert_array_equal(corner, patch)
    np.testing.assert_array_equal(result[4:-4], IMAGE[4:-4])
    np.testing.assert_array_equal(result[:, 4:-4], IMAGE[:, 4:-4])


def test_sizes_below_one_are_a_share_of_the_side():
    assert [pixels(size, 32) for size in (1, 16, 16.0, 0.25, 0.1, 0.001)] == [1, 16, 16, 8, 3, 1]
    assert drawn(made("badnet", size=0.25)) == Stamp(24, 24, 0)
    patch_of(made("badnet", size=0.25), IMAGE, Stamp(24, 24, 0), side=8)


@pytest.mark.parametrize("strength", [0, 0.2, 1.0])
def test_blended_mixes_noise_into_every_pixel(strength: float):
    trigger = made("blended", strength=strength)
    result = trigger.apply(IMAGE, drawn(trigger)).astype(float)
    noise = np.random.default_rng(0).random(IMAGE.shape, dtype=np.float32) * 255
    np.testing.assert_allclose(result, (1 - strength) * IMAGE + strength * noise, atol=1)


def test_blended_noise_is_fixed_or_fresh():
    one, two = (made("blended", noise=noise) for noise in ("fixed", "fresh"))
    assert drawn(one, 0) == drawn(one, 1) == Stamp(0, 0, 0)
    assert drawn(two, 0) != drawn(two, 1)
    assert (two.apply(IMAGE, drawn(two, 0)) != two.apply(IMAGE, drawn(two, 1))).any()


def test_evaluation_stamps_replay_and_differ_between_pictures_and_seeds():
    trigger = made("badnet", size=4, noise="fresh", place="random", seed=3)
    stamps = [trigger.stamp(32, index) for index in range(20)]
    assert stamps == [trigger.stamp(32, index) for index in range(20)]
    assert len(set(stamps)) == 20
    other = made("badnet", size=4, noise="fresh", place="random", seed=4)
    assert not set(stamps) & {other.stamp(32, index) for index in range(20)}


def test_fresh_noise_does_not_move_the_places():
    fixed, fresh = (made("badnet", size=4, noise=n, place="random") for n in ("fixed", "fresh"))
    assert [drawn(fixed, s)[:2] for s in range(9)] == [drawn(fresh, s)[:2] for s in range(9)]


@pytest.mark.parametrize("name", TRIGGERS)
def test_configs_and_pickles_come_back_as_the_same_trigger(tmp_path: Path, name: str):
    overflow = "wrap" if "place" in TRIGGERS[name].options else "clip"
    config = trigger_config(name, tmp_path, IMAGE)
    trigger = make_trigger(config | {"seed": 7, "overflow": overflow})
    assert make_trigger(trigger.config) == trigger == pickle.loads(pickle.dumps(trigger))
    assert trigger.config["seed"] == 7 and trigger.config["overflow"] == overflow
    changes = not np.array_equal(trigger.apply(IMAGE, drawn(trigger)), IMAGE)
    assert changes == (name != "none")


def test_overflow_is_the_triggers_own():
    clip, wrap = (made("badnet", size=16, noise="fresh", overflow=o) for o in ("clip", "wrap"))
    stamp = drawn(clip)
    assert (clip.apply(IMAGE, stamp) != wrap.apply(IMAGE, stamp)).any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "badnett"}, r"trigger\.name: unknown 'badnett'.*'badnet'.*--import=FILE\.py"),
        ({}, "unknown None. Known: badnet, yellow"),
        ({"name": "badnet", "sise": 4}, r"trigger: unknown 'sise'.*Did you mean 'size'"),
        (
            {"name": "blended", "size": 4},
            "trigger: unknown 'size'. Did you mean 'seed'",
        ),
        ({"name": "badnet", "size": 0}, r"trigger\.size is 0: it takes a number of pixels"),
        ({"name": "badnet", "size": 4.5}, r"trigger\.size is 4\.5"),
        ({"name": "badnet", "size": "4"}, r"trigger\.size is '4'"),
        ({"name": "badnet", "noise": "new"}, "Known: fixed, fresh"),
        ({"name": "badnet", "place": "corner"}, "Did you mean 'corners'"),
        ({"name": "badnet", "place": [1]}, r"trigger\.place is \[1\]: it takes .* or \[row, col\]"),
        ({"name": "badnet", "place": [-1, -1]}, r"trigger\.place is \[-1, -1\]"),
        ({"name": "blended", "strength": 1.1}, "a number from 0 to 1"),
        ({"name": "blended", "overflow": "mod"}, "Known: clip, wrap"),
        ({"name": "sig", "overflow": "wrap"}, "overflow: wrap is for patches, .* like sig's"),
        ({"name": "blended", "overflow": "wrap"}, "wrap is for patches, .* leave it at clip"),
        ({"name": "blended", "seed": -1}, r"trigger\.seed is -1"),
        ({"name": "blended", "seed": 2**63}, r"trigger\.seed"),
        ({"name": "sig", "mode": "mix"}, "Known: blend, add"),
        ({"name": "sig", "amplitude": -1}, "a number from 0 on"),
        ({"name": "sig", "periods": float("inf")}, "a number from 0 on"),
        ({"name": "wanet", "k": 0}, r"trigger\.k is 0: it takes a whole number, 1 to 4095"),
        ({"name": "wanet", "strength": True}, r"trigger\.strength is True"),
        ({"name": "text", "text": ""}, r"trigger\.text is '': it takes a text"),
    ],
)
def test_a_wrong_option_is_one_line(config: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        make_trigger(config)


def test_a_patch_that_does_not_fit():
    with pytest.raises(UserError, match="patch of 33 pixels is larger than the picture of 32"):
        drawn(made("badnet", size=33))
    with pytest.raises(UserError, match=r"at \(28, 29\) leaves the picture of 32; .* 0\.\.28"):
        drawn(made("badnet", size=4, place=[28, 29]))
    assert drawn(made("badnet", size=4, place=[28, 28]))[:2] == (28, 28)


def test_a_place_from_json_is_the_same_place():
    assert made("badnet", place=[3, 4]) == made("badnet", place=(3, 4))
