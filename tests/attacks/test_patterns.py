"""Each trigger's pattern, against golden values or its definition in docs/attacks.md."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.trigger_files import trigger_config
from PIL import Image

from cleanclip_jax.attacks import warp
from cleanclip_jax.attacks.triggers import TRIGGERS, Trigger, make_trigger
from cleanclip_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
GREY = np.full((64, 64, 3), 128, np.uint8)


def made(name: str, **options: Any) -> Trigger:
    return make_trigger({"name": name, **options})


def on(trigger: Trigger, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return trigger.apply(image, trigger.draw(image.shape[0], np.random.default_rng(seed)))


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ({"name": "yellow", "size": 16, "place": "corners"}, "yellow_four_corners"),
        ({"name": "sig"}, "sig_blended"),
    ],
)
def test_what_draws_nothing_is_pixel_exact(golden, config: dict[str, Any], value: str):
    values = golden("triggers")
    np.testing.assert_array_equal(on(make_trigger(config), values["squashed_224"]), values[value])


def test_wanet_with_the_originals_field_is_pixel_exact(golden, shared_data: Path):
    values, field = golden("triggers"), shared_data / "meta/wanet_noise_grid_k224_s1_h224.npy"
    trigger = made("wanet", field=str(field), strength=1)
    np.testing.assert_array_equal(on(trigger, values["squashed_224"]), values["warped"])


@pytest.mark.parametrize(("k", "strength"), [(4, 0.5), (48, 1.0), (64, 8.0)])
def test_warping_is_torchs(golden, tmp_path: Path, k: int, strength: float):
    """Coarse, pixel by pixel, and finer than the pixels; far enough to meet the border."""
    values, path = golden("warp"), tmp_path / "field.npy"
    field = values[f"field_{k}"]
    np.testing.assert_allclose(warp.upsample(field, 48, 48), values[f"up_{k}"], atol=3e-6)
    np.save(path, field[None])
    trigger = made("wanet", field=str(path), strength=strength)
    np.testing.assert_array_equal(on(trigger, values["picture"]), values[f"warped_{k}"])


def test_a_field_is_drawn_by_the_seed_with_a_mean_of_one():
    field = warp.draw_field(0, 100)
    assert np.abs(field).mean() == pytest.approx(1, abs=1e-5)
    assert np.abs(field).max() == pytest.approx(2, abs=0.05) and abs(field.mean()) < 0.02
    assert (field != warp.draw_field(1, 100)).all()


def test_wanet_shifts_pixels_by_half_its_strength():
    """As the field is in shares of the picture, and a picture is 2 wide: so WaNet has it."""
    ramp = np.arange(64, dtype=np.uint8)[None, :, None] * np.ones((64, 1, 3), np.uint8) * 2
    shifted = on(made("wanet", strength=4), ramp).astype(float) - ramp
    inside = shifted[:, 8:-8] / 2
    assert np.abs(inside).mean() == pytest.approx(4 / 2, rel=0.1)
    still = on(made("wanet", strength=0), ramp).astype(int) - ramp
    assert still.min() >= -1 and still.max() <= 0  # where rounding meets the cutting off
    assert (on(made("wanet", k=4), ramp) != on(made("wanet", k=4, seed=1), ramp)).any()


def test_a_smooth_warp_changes_less_than_a_rough_one():
    ramp = (np.arange(64)[:, None, None] * 3 * np.ones((1, 64, 3))).astype(np.uint8)

    def roughness(k: int) -> float:
        return np.abs(
            np.diff(on(made("wanet", k=k, strength=1), ramp).astype(float), axis=1)
        ).mean()

    assert roughness(4) < roughness(64) / 3


def bytes_of(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"not an array", "no .npy file"),
        (np.zeros((4, 4, 3), np.float32), r"an array \[4, 4, 3\] of float32; it takes"),
        (np.zeros((4, 4, 2), int), "of int64"),
        (np.full((4, 4, 2), np.nan), "finite floats"),
        (np.array([{}]), "no .npy file"),
        (
            b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, "
            b"'shape': (9**9, 9, 2)}",
            "no .npy file",
        ),
        (np.zeros((1, 4097, 2), np.float32), "k up to 4096"),
        (bytes_of(np.zeros((4, 4, 2), np.float32)) + bytes(1 << 17), "larger than"),
    ],
)
def test_a_field_that_is_none(tmp_path: Path, content: Any, message: str):
    path = tmp_path / "field.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=message) as caught:
        made("wanet", field=str(path))
    assert "\n" not in str(caught.value) and "field.npy" in str(caught.value)


def test_a_pipe_or_an_archive_is_no_field(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.npy")
    np.savez(tmp_path / "field.npz", field=np.zeros((4, 4, 2), np.float32))
    for name in ("pipe.npy", "field.npz", "no\0name.npy"):
        with pytest.raises(UserError, match=r"name|pipe|npz.* is no \.npy file"):
            made("wanet", field=str(tmp_path / name))


def test_another_field_than_the_manifests_is_noticed(tmp_path: Path):
    path = tmp_path / "field.npy"
    np.save(path, warp.draw_field(0, 4))
    config = made("wanet", field=str(path)).config
    assert make_trigger(config).config == config
    np.save(path, warp.draw_field(1, 4))
    with pytest.raises(UserError, match=r"trigger\.field: .*field\.npy is not the file of the"):
        make_trigger(config)
    with pytest.raises(UserError, match="either k or field, not both"):
        made("wanet", field=str(path), k=4)


def test_the_checkerboard_has_every_second_pixel_of_every_second_row():
    patch = on(made("checkerboard", size=6), IMAGE)[-6:, -6:]
    expected = np.zeros((6, 6, 3), np.uint8)
    expected[::2, ::2] = 255
    np.testing.assert_array_equal(patch, expected)


def test_stripes_are_one_saturated_colour_a_column():
    trigger = made("stripes", size=16)
    patch = on(trigger, IMAGE)[-16:, -16:]
    assert (patch == patch[:1]).all() and set(patch.ravel().tolist()) == {0, 255}
    assert len({tuple(colour) for colour in patch[0].tolist()}) > 4
    np.testing.assert_array_equal(patch, on(trigger, 255 - IMAGE)[-16:, -16:])
    fresh = made("stripes", size=16, noise="fresh")
    assert (on(fresh, IMAGE, 0)[-16:, -16:] != on(fresh, IMAGE, 1)[-16:, -16:]).any()


@pytest.mark.parametrize("width", [1, 4])
def test_blended_stripes_darken_and_lighten_columns(width: int):
    """0.97 x + 0.03 c with c -1 or 1: at 128 of 255 that's 116 or 131, cut off."""
    result = on(made("blended_stripes", width=width), GREY)
    assert (result == result[:1]).all() and set(result.ravel().tolist()) == {116, 131}
    columns = result[0].reshape(-1, width, 3)
    assert (columns == columns[:, :1]).all()
    assert 0.3 < (np.diff(columns[:, 0], axis=0) != 0).mean() < 0.7


def test_triangles_halve_tiles_into_two_greys():
    """0.85 x + 0.15 c with c 0.4 below the diagonal and 0.8 above."""
    result = on(made("triangles", size=14), GREY)
    dark, light = int(0.85 * 128 + 0.15 * 0.4 * 255), int(0.85 * 128 + 0.15 * 0.8 * 255)
    tile = np.where(np.tri(14, dtype=bool), dark, light)
    for row, col in ((0, 0), (14, 42)):
        np.testing.assert_array_equal(result[row : row + 14, col : col + 14, 0], tile)
    assert result.shape == GREY.shape and set(result.ravel().tolist()) == {dark, light}


def test_the_text_is_red_half_covering_and_across_the_middle():
    result = on(made("text"), GREY).astype(int)
    touched = (result != 128).any(-1)
    rows, cols = np.nonzero(touched)
    assert result[..., 0].max() > 180 and result[..., 1:].min() < 75
    assert (result[..., 0] >= 128).all() and (result[..., 1:] <= 128).all()
    assert abs(rows.mean() - 32) < 4 and abs(cols.mean() - 32) < 4
    assert 4 <= np.ptp(rows) <= 12 and 30 < np.ptp(cols) < 64
    assert (on(made("text", text="Other"), GREY) != result).any()
    # Letters of more than a pixel's stroke cover some pixels whole.
    large = on(made("text", size=24, text="I"), GREY)
    assert (large.reshape(-1, 3).max(0) == (191, 128, 128)).all() and large.min() == 64


def test_sig_is_added_or_mixed_in():
    wave = 60 * np.sin(2 * np.pi * 6 * np.arange(64) / 64)
    added = on(made("sig", mode="add"), GREY).astype(float)
    np.testing.assert_allclose(added, 128 + wave[None, :, None] + np.zeros((64, 64, 3)), atol=1)
    mixed = on(made("sig", strength=0.5, periods=2, amplitude=100), GREY).astype(float)
    wave = 100 * np.sin(2 * np.pi * 2 * np.arange(64) / 64)
    np.testing.assert_allclose(mixed[0, :, 0], 64 + 0.5 * wave, atol=1)


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("side", [17, 32, 225])
def test_every_trigger_does_every_size_and_alters_it(tmp_path: Path, name: str, side: int):
    image = np.asarray(Image.fromarray(IMAGE).resize((side, side)))
    trigger = make_trigger(trigger_config(name, tmp_path, image))
    result = on(trigger, image)
    assert result.shape == image.shape and result.dtype == np.uint8
    assert (result != image).any() == (name != "none")
    np.testing.assert_array_equal(result, on(make_trigger(trigger.config), image))


@pytest.mark.parametrize("name", [name for name in TRIGGERS if "place" in TRIGGERS[name].options])
def test_every_patch_goes_to_any_place(tmp_path: Path, name: str):
    config = trigger_config(name, tmp_path) | {"size": 4}
    trigger = make_trigger(config | {"place": (3, 5)})
    outside = (on(trigger, IMAGE) != IMAGE).any(-1)
    outside[3:7, 5:9] = False
    assert not outside.any()
    corners = on(make_trigger(config | {"place": "corners"}), IMAGE)
    for corner in (corners[:4, :4], corners[:4, -4:], corners[-4:, :4], corners[-4:, -4:]):
        np.testing.assert_array_equal(corner, on(trigger, IMAGE)[3:7, 5:9])
