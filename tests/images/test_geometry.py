import numpy as np
import pytest

from cleanclip_jax.images.geometry import resize_crop, squash


@pytest.mark.parametrize("case", range(5))
def test_resize_and_crop_are_pixel_exact(golden, case: int):
    values = golden("geometry")
    size = int(values["size"])
    np.testing.assert_array_equal(resize_crop(values[f"in_{case}"], size), values[f"out_{case}"])


def test_squash_is_pixel_exact(golden):
    values = golden("triggers")
    np.testing.assert_array_equal(squash(values["source"], 224), values["squashed_224"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 8), (33, 32), (37, 100)])
@pytest.mark.parametrize("size", [1, 8, 13])
def test_any_shape_comes_to_the_size(shape: tuple[int, int], size: int):
    image = np.full((*shape, 3), 77, np.uint8)
    for geometry in (resize_crop, squash):
        np.testing.assert_array_equal(geometry(image, size), np.full((size, size, 3), 77, np.uint8))


def test_a_square_of_the_size_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_crop(image, 16), image)
    np.testing.assert_array_equal(squash(image, 16), image)


@pytest.mark.parametrize(("more", "start"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2)])
def test_half_pixels_of_the_crop_are_rounded_to_even(more: int, start: int):
    tall = np.random.default_rng(0).integers(0, 256, (16 + more, 16, 3), dtype=np.uint8)
    wide = tall.transpose(1, 0, 2)
    np.testing.assert_array_equal(resize_crop(tall, 16), tall[start : start + 16])
    np.testing.assert_array_equal(resize_crop(wide, 16), wide[:, start : start + 16])


def test_the_crop_is_the_centre_and_squash_keeps_the_rim():
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 255
    assert resize_crop(image, 8).min() > 0 and (resize_crop(image, 8)[:, 1:-1] == 255).all()
    assert squash(image, 8)[:, 0].max() == 0 and squash(image, 8)[:, 4].min() > 200
