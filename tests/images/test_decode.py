import io
import pickle

import numpy as np
import pytest
from PIL import Image

from cleanclip_jax.errors import UserError
from cleanclip_jax.images.decode import BadRecord, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_pixels_come_back_as_they_were():
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(PIXELS)), "here"), PIXELS)


def test_the_result_can_be_written_to():
    image = decode(encoded(Image.fromarray(PIXELS)), "here")
    image[0, 0] = 0


def test_grey_becomes_three_equal_channels():
    image = decode(encoded(Image.fromarray(PIXELS[:, :, 0])), "here")
    np.testing.assert_array_equal(image, np.repeat(PIXELS[:, :, :1], 3, axis=2))


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    grey = PIXELS[:, :, 0].astype(np.uint16) << 8 | 0x7F
    image = decode(encoded(Image.fromarray(grey)), "here")
    np.testing.assert_array_equal(image, np.repeat(PIXELS[:, :, :1], 3, axis=2))


def test_transparency_is_dropped():
    alpha = np.arange(35, dtype=np.uint8).reshape(7, 5, 1)
    image = decode(encoded(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2))), "here")
    np.testing.assert_array_equal(image, PIXELS)


def test_a_palette_with_transparency_decodes_without_a_warning():
    palette = Image.fromarray(PIXELS).convert("P")
    data = encoded(palette, transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode(data, "here"), np.array(palette.convert("RGB")))


PNG = encoded(Image.fromarray(PIXELS))
JPEG = encoded(Image.fromarray(PIXELS.repeat(20, 0).repeat(20, 1)), "JPEG")


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", PNG[:20], PNG[: len(PNG) // 2], JPEG[: len(JPEG) // 2]],
    ids=["empty", "no image", "header only", "half a png", "half a jpeg"],
)
def test_unreadable_bytes_are_one_line_that_names_the_place(data: bytes):
    with pytest.raises(BadRecord, match=r"^pairs.csv row 17: unreadable image \(.+\)") as caught:
        decode(data, "pairs.csv row 17")
    assert "\n" not in str(caught.value)
    assert " 0x" not in str(caught.value)  # an object's address tells nobody anything


def test_bad_records_are_user_errors_that_cross_processes():
    error = pickle.loads(pickle.dumps(BadRecord("pairs.csv row 17: no")))
    assert isinstance(error, UserError) and str(error) == "pairs.csv row 17: no"
