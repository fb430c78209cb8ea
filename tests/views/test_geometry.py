from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from cleanclip_jax.views.geometry import fast_resize_crop, fast_squash, resize_crop, squash

ALL = [resize_crop, squash, fast_resize_crop, fast_squash]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("case", range(5))
def test_resize_and_crop_are_pixel_exact(golden, case: int):
    values = golden("geometry")
    size = int(values["size"])
    np.testing.assert_array_equal(resize_crop(values[f"in_{case}"], size), values[f"out_{case}"])


def test_what_the_crop_leaves_out_need_not_be_made():
    """As Pillow's whole resize and a crop, for any shape: shrunk, enlarged, long and short."""
    for _ in range(300):
        height, width, size = RNG.integers(1, 90, 3).tolist()
        image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
        short = min(height, width)
        shape = size * width // short, size * height // short
        left, top = (round((side - size) / 2) for side in shape)
        whole = image.resize(shape, Image.Resampling.BICUBIC)
        expected = np.asarray(whole)[top : top + size, left : left + size]
        np.testing.assert_array_equal(resize_crop(image, size), expected)
        np.testing.assert_array_equal(resize_crop(np.asarray(image), size), expected)


def test_squash_is_pixel_exact(golden):
    values = golden("triggers")
    np.testing.assert_array_equal(squash(values["source"], 224), values["squashed_224"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 8), (33, 32), (37, 100)])
@pytest.mark.parametrize("size", [1, 8, 13])
@pytest.mark.parametrize("geometry", ALL)
def test_any_shape_comes_to_the_size(geometry: Callable, shape: tuple[int, int], size: int):
    image = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(geometry(image, size), np.full((size, size, 3), 77, np.uint8))


@pytest.mark.parametrize("geometry", ALL)
def test_a_square_of_the_size_stays_as_it_is(geometry: Callable):
    image = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(geometry(image, 16), image)


@pytest.mark.parametrize(("more", "start"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2)])
@pytest.mark.parametrize("geometry", [resize_crop, fast_resize_crop])
def test_half_pixels_of_the_crop_are_rounded_to_even(geometry: Callable, more: int, start: int):
    tall = RNG.integers(0, 256, (16 + more, 16, 3), dtype=np.uint8)
    wide = np.ascontiguousarray(tall.transpose(1, 0, 2))
    np.testing.assert_array_equal(geometry(tall, 16), tall[start : start + 16])
    np.testing.assert_array_equal(geometry(wide, 16), wide[:, start : start + 16])


@pytest.mark.parametrize(("crop", "whole"), [ALL[:2], ALL[2:]])
def test_the_crop_is_the_centre_and_squash_keeps_the_rim(crop: Callable, whole: Callable):
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 255
    assert crop(image, 8).min() > 0 and (crop(image, 8)[:, 1:-1] == 255).all()
    assert whole(image, 8)[:, 0].max() == 0 and whole(image, 8)[:, 4].min() > 200


@pytest.mark.parametrize("shape", [(40, 50), (70, 64), (100, 90), (300, 250)])
@pytest.mark.parametrize(
    ("exact", "fast"), [(resize_crop, fast_resize_crop), (squash, fast_squash)]
)
def test_fast_pictures_are_nearly_the_exact_ones(
    exact: Callable, fast: Callable, shape: tuple[int, int]
):
    """In the same place, to a fraction of a pixel, and not aliased where they shrink much."""
    coarse = Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    image = np.array(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    fine = image.astype(int) + RNG.integers(-60, 60, image.shape)
    image = fine.clip(0, 255).astype(np.uint8) if shape[0] == 300 else image
    difference = np.abs(fast(image, 60).astype(int) - exact(image, 60))
    assert difference.mean() < 4 and np.quantile(difference, 0.99) < 20
    shifted = np.abs(np.roll(fast(image, 60), 1, axis=1).astype(int) - exact(image, 60))
    assert shifted.mean() > 3 * difference.mean()


def test_opencv_makes_no_threads_beside_the_workers():
    assert cv2.getNumThreads() == 1
