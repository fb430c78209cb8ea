"""The device's triggers against the host's, which tests/attacks hold against the original's."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.trigger_files import trigger_config

from cleanclip_jax.attacks.device_triggers import put, version
from cleanclip_jax.attacks.triggers import TRIGGERS, Stamp, Trigger, fold, make_trigger
from cleanclip_jax.attacks.warp import draw_field
from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import make_mesh, split_over


def some_pictures(count: int, side: int) -> np.ndarray:
    """By turns of all values, of one, and dark."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    images[1::3] = rng.integers(0, 256, (len(images[1::3]), 1, 1, 3))
    images[2::3] //= 8
    return images


def both(
    trigger: Trigger, images: np.ndarray, clean: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the device makes of pictures, all but `clean` poisoned, and what the host makes."""
    stamps = [trigger.stamp(images.shape[1], index) for index in range(len(images))]
    expected = [trigger.apply(*pair) for pair in zip(images, stamps, strict=True)]
    folded = [fold(stamp) for stamp in stamps]
    if clean is not None:
        folded[clean], expected[clean] = fold(None), images[clean]
    ours = jax.jit(lambda images, stamps: put((trigger,), images, stamps))(images, np.stack(folded))
    return np.asarray(ours), np.stack(expected)


def apart(ours: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How many grey levels, where 0 and 255 are neighbours, as wrapping has it."""
    return np.abs((ours - expected).view(np.int8).astype(int))


EXACT: list[dict[str, Any]] = [
    {"name": "badnet", "size": 5},
    {"name": "badnet", "size": 0.3, "place": "random", "seed": 2**62 + 5, "overflow": "wrap"},
    {"name": "badnet", "size": 12, "place": "corners"},  # which meet
    {"name": "yellow", "size": 4, "place": (3, 11)},
    {"name": "yellow", "size": 21},
    {"name": "checkerboard", "size": 6, "place": "random"},
    {"name": "stripes", "size": 7, "place": "corners", "overflow": "wrap"},
    {"name": "blended"},
    {"name": "blended", "strength": 1, "seed": 3},
    {"name": "blended", "strength": 0},
    {"name": "blended_stripes", "strength": 0.4},
    {"name": "blended_stripes", "width": 4, "seed": 1},
    {"name": "triangles", "size": 6},
    {"name": "text", "size": 9, "text": "Ag", "strength": 0.7},
    {"name": "text", "strength": 1},
    {"name": "sig"},
    {"name": "sig", "mode": "add", "amplitude": 90, "periods": 2.5},
    {"name": "sig", "mode": "add", "amplitude": 300},
    {"name": "nashville"},
    {"name": "none"},
    {"name": "patch", "channels": "bgr"},
    {"name": "patch", "size": 0.4, "place": "random"},
    {"name": "picture", "strength": 0.3},
]


@pytest.mark.parametrize("config", EXACT, ids=str)
def test_patches_and_patterns_are_the_hosts(config: dict[str, Any], tmp_path: Path):
    config = trigger_config(config["name"], tmp_path) | config
    images = some_pictures(9, 21)
    ours, expected = both(make_trigger(config), images, clean=4)
    np.testing.assert_array_equal(ours, expected)
    nothing = config.get("strength") == 0 or config["name"] == "none"
    assert (ours[[0, 3, 8]] != images[[0, 3, 8]]).any() != nothing
    np.testing.assert_array_equal(ours[4], images[4])


WARPS: list[dict[str, Any]] = [
    {"strength": 1.0},
    {"k": 4, "strength": 8.0, "seed": 2},
    {"strength": 0.5, "field": True},
]


@pytest.mark.parametrize("config", WARPS, ids=str)
def test_warps_are_the_hosts_within_a_grey_level(config: dict[str, Any], tmp_path: Path):
    if config.get("field"):
        np.save(tmp_path / "field.npy", draw_field(5, 6))
        config = config | {"field": str(tmp_path / "field.npy")}
    images = some_pictures(9, 21)
    ours, expected = both(make_trigger({"name": "wanet", **config}), images, clean=4)
    different = apart(ours, expected)
    assert different.max() <= 1 and (different > 0).mean() < 0.03
    assert (ours[[0, 3, 6]] != images[[0, 3, 6]]).mean() > 0.5
    np.testing.assert_array_equal(ours[4], images[4])


def test_every_trigger_is_tried():
    assert {config["name"] for config in EXACT} | {"wanet", "pictures"} == set(TRIGGERS)


def test_pictures_that_are_made_on_the_host_alone_are_refused(tmp_path: Path):
    trigger = make_trigger(trigger_config("pictures", tmp_path))
    with pytest.raises(UserError, match="'pictures' is made on the host alone"):
        version(trigger)


def test_nashville_is_pilgrams_colour_by_colour(golden):
    values = golden("attacks")
    colours, expected = (values[f"nashville|{name}"] for name in ("colours", "colours_output"))
    square = colours[:4900].reshape(70, 70, 3)
    result = one(make_trigger({"name": "nashville"}), square, Stamp(0, 0, 0))
    np.testing.assert_array_equal(result.reshape(-1, 1, 3), expected[:4900])


def one(trigger: Trigger, image: np.ndarray, stamp: Stamp) -> np.ndarray:
    run = jax.jit(lambda images, stamps: put((trigger,), images, stamps))
    return np.asarray(run(image[None], fold(stamp)[None]))[0]


def test_pictures_are_the_originals(golden, monkeypatch):
    """With the original's noise in place of drawn noise, where there is any."""
    values = golden("triggers")
    image = values["squashed_224"]
    yellow = make_trigger({"name": "yellow", "place": "corners"})
    expected = values["yellow_four_corners"]
    np.testing.assert_array_equal(one(yellow, image, yellow.stamp(224, 0)), expected)
    sig = make_trigger({"name": "sig"})
    np.testing.assert_array_equal(one(sig, image, sig.stamp(224, 0)), values["sig_blended"])
    drawn = {(16, 16, 3): values["badnet_noise"], (224, 224, 3): values["blended_noise"]}
    for name in ("normal", "uniform"):
        monkeypatch.setattr(
            jax.random, name, lambda key, shape, _: jnp.asarray(drawn[shape].transpose(1, 2, 0))
        )
    badnet = make_trigger({"name": "badnet", "noise": "fresh", "overflow": "wrap"})
    stamp = Stamp(int(values["badnet_row"]), int(values["badnet_col"]), 0)
    assert apart(one(badnet, image, stamp), values["badnet_random"]).max() <= 1
    blended = make_trigger({"name": "blended", "noise": "fresh"})
    assert apart(one(blended, image, Stamp(0, 0, 0)), values["blended"]).max() <= 1


@pytest.mark.parametrize("k", [4, 64])
def test_warping_is_torchs(golden, tmp_path: Path, k: int):
    values, path = golden("warp"), tmp_path / "field.npy"
    np.save(path, values[f"field_{k}"])
    wanet = make_trigger({"name": "wanet", "field": str(path), "strength": {4: 0.5, 64: 8.0}[k]})
    assert apart(one(wanet, values["picture"], Stamp(0, 0, 0)), values[f"warped_{k}"]).max() <= 1


GREY = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (128, 128, 128, 64)])
STAMPS = [Stamp(0, 0, seed) for seed in (2**62 + 1, 2**62 + 2, 2**62 + 1, 5)]


def fresh(**config: Any) -> np.ndarray:
    """Fresh noise on four grey pictures, the first and the third of one seed."""
    trigger = make_trigger({"noise": "fresh", **config})
    run = jax.jit(lambda images, stamps: put((trigger,), images, stamps))
    result = np.asarray(run(GREY, np.stack([fold(stamp) for stamp in STAMPS])))
    np.testing.assert_array_equal(result[0], result[2])
    assert (result[0] != result[1]).mean() > 0.3
    return result.astype(float)


def test_a_fresh_patch_is_noise_around_the_pictures_mean():
    """Of deviation 1, so that clipping leaves what its normal distribution has below and above."""
    result = fresh(name="badnet", size=60, place=[0, 0])
    np.testing.assert_array_equal(result[:, 60:], GREY[:, 60:])
    patch = result[:, :60, :60]
    for level, noisy in ((128, patch[:2]), (64, patch[3:])):
        for edge, share in ((0, level / 255), (255, 1 - level / 255)):
            tail = np.mean(np.random.default_rng(0).standard_normal(10**6) > share)
            assert (noisy == edge).mean() == pytest.approx(tail, abs=0.015)


def test_fresh_blended_noise_is_uniform():
    result = fresh(name="blended", strength=0.5)
    for number, level in ((0, 128), (3, 64)):
        noise = 2 * result[number] - level
        assert noise.mean() == pytest.approx(127, abs=4)
        assert noise.std() == pytest.approx(255 / np.sqrt(12), abs=2)
        assert noise.min() < 4 and noise.max() > 250


@pytest.mark.parametrize(
    ("config", "width", "low", "high"),
    [
        ({"name": "stripes", "size": 64}, 1, {0}, {255}),
        # 0.75 x + 0.25 c with c of -1 and 1, clipped and cut off.
        (
            {"name": "blended_stripes", "width": 5, "strength": 0.25},
            *(5, {96 - 64, 0}, {96 + 63, 48 + 63}),
        ),
    ],
    ids=["stripes", "blended_stripes"],
)
def test_fresh_stripes_are_a_fair_choice_a_column(config, width: int, low: set, high: set):
    result = fresh(**config)[[0, 1, 3]]
    assert (result == result[:, :1]).all()
    assert set(result.ravel().tolist()) == low | high
    columns = result[:, 0, ::width]
    np.testing.assert_array_equal(np.repeat(columns, width, 1)[:, :64], result[:, 0])
    assert np.isin(columns, list(high)).mean() == pytest.approx(0.5, abs=0.2)


def test_a_fresh_patch_keeps_its_place_and_clean_pictures_stay():
    trigger = make_trigger({"name": "badnet", "size": 4, "noise": "fresh", "place": "corners"})
    images = some_pictures(6, 21)
    ours, _ = both(trigger, images, clean=2)
    np.testing.assert_array_equal(ours[2], images[2])
    for corner in (ours[:, :4, -4:], ours[:, -4:, :4], ours[:, -4:, -4:]):
        np.testing.assert_array_equal(np.delete(corner, 2, 0), np.delete(ours[:, :4, :4], 2, 0))
    np.testing.assert_array_equal(ours[:, 4:-4], images[:, 4:-4])
    np.testing.assert_array_equal(ours[:, :, 4:-4], images[:, :, 4:-4])


def test_a_stamp_is_folded_into_31_bits():
    assert fold(None).tolist() == [0, 0, 0, 0]
    assert fold(Stamp(-1, -1, 7)).tolist() == [1, -1, -1, 7]
    seeds = [seed for bit in range(63) for seed in (2**bit, 2**62 - 2**bit)]
    folded = [fold(Stamp(3, 4, seed)) for seed in seeds]
    assert all(stamp.dtype == np.int32 and (stamp >= 0).all() for stamp in folded)
    rng = np.random.default_rng(0)
    drawn = {fold(Stamp(0, 0, int(seed)))[3] for seed in rng.integers(2**63 - 1, size=1000)}
    assert len(drawn) == 1000


@pytest.mark.parametrize(
    "config",
    [
        {"name": "badnet", "size": 5, "noise": "fresh", "place": "random"},
        {"name": "blended", "noise": "fresh"},
        {"name": "wanet"},
        {"name": "text", "size": 9},
    ],
    ids=lambda config: config["name"],
)
def test_devices_make_what_one_makes_and_say_nothing_to_each_other(config: dict[str, Any]):
    trigger, images = make_trigger(config), some_pictures(16, 21)
    stamps = np.stack(
        [fold(trigger.stamp(21, number) if number % 3 else None) for number in range(16)]
    )
    run = jax.jit(lambda images, stamps: put((trigger,), images, stamps))
    over = split_over(make_mesh())
    placed = jax.device_put(images, over), jax.device_put(stamps, over)
    compiled = run.lower(*placed).compile()
    result = compiled(*placed)
    assert result.sharding.is_equivalent_to(over, result.ndim)
    np.testing.assert_array_equal(result, run(images, stamps))
    text = compiled.as_text() or ""
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in text
