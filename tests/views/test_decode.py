import pickle
import resource

import numpy as np
import pytest
from helpers.odd_pictures import PIXELS, SMOOTH, bad, by_pillow, encoded, good, jpegs
from PIL import Image

from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord, decode

# Pillow warns of some; decode() keeps that from the user's terminal, and these tests' filters
# from being errors.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")


def test_pixels_come_back_as_they_were():
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(PIXELS)), "here"), PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_result_can_be_written_to(kind: str):
    image = decode(encoded(Image.fromarray(PIXELS), kind), "here")
    image[0, 0] = 0


def test_every_kind_of_jpeg_has_pillows_pixels():
    names = []
    for name, data in jpegs():
        np.testing.assert_array_equal(decode(data, name), by_pillow(data), err_msg=name)
        names.append(name)
    assert len(names) == 5 * 30


@pytest.mark.parametrize("name", good())
def test_every_odd_picture_has_pillows_pixels(name: str, capfd: pytest.CaptureFixture):
    data = good()[name]
    np.testing.assert_array_equal(decode(data, "here"), by_pillow(data))
    assert capfd.readouterr() == ("", "")


def test_of_an_animation_the_first_frame_is_taken_and_exif_turns_nothing():
    for name in ("animated gif", "animated png", "animated webp", "sixteen-bit rgb", "rgba"):
        difference = decode(good()[name], "here").astype(int) - PIXELS
        assert np.abs(difference).mean() < (20 if "gif" in name else 0.01), name
    assert decode(good()["turned by exif"], "here").shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str):
    grey = PIXELS[:, :, 0].astype(np.uint16) << 8 | 0x7F
    image = decode(encoded(Image.fromarray(grey), kind), "here")
    np.testing.assert_array_equal(image, np.repeat(PIXELS[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("name", bad())
@pytest.mark.parametrize("enough", [None, 16])
def test_what_is_no_picture_is_one_line_that_names_the_place(
    name: str, enough: int | None, capfd: pytest.CaptureFixture
):
    data, before = bad()[name], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRecord, match=r"^pairs.csv row 17: unreadable image \(.+\)") as caught:
        decode(data, "pairs.csv row 17", enough)
    assert "\n" not in str(caught.value)
    assert " 0x" not in str(caught.value)  # an object's address tells nobody anything
    # Bombs are refused by what they say of themselves, before anything is made of it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a page", r"56 bytes in no image format that Pillow reads"),
        ("a jpeg bomb", r"65000 x 65000 pixels: it may be a decompression bomb"),
        ("a small png bomb", r"bomb"),
        ("a line of pixels", r"1 x 60000 pixels: .* 500 times as long as wide"),
        ("a program", r"EPS is a program"),
    ],
)
def test_the_reason_is_named(name: str, message: str):
    with pytest.raises(BadRecord, match=message):
        decode(bad()[name], "here")


def outcome(read, data: bytes) -> bytes | None:
    try:
        return read(data).tobytes()
    except Exception:
        return None


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_what_pillow_makes_of_it(progressive: bool):
    data = encoded(Image.fromarray(SMOOTH), "JPEG", progressive=progressive)
    rng, outcomes = np.random.default_rng(0), set()
    cut = [data[: len(data) - n] for n in (1, 2, 3, 10, 100, 500)]
    flipped = []
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.integers(300, len(data))] = rng.integers(256)
        flipped.append(bytes(broken))
    for broken in cut + flipped:
        ours, pillows = outcome(lambda d: decode(d, ""), broken), outcome(by_pillow, broken)
        assert ours == pillows
        outcomes.add(ours)
    assert None in outcomes and len(outcomes) > 10


@pytest.mark.parametrize(
    ("height", "width", "enough", "shape"),
    [
        (300, 400, 150, (150, 200)),
        (300, 400, 149, (150, 200)),
        (300, 400, 151, (300, 400)),  # from 5/8 on, the whole takes less time
        (301, 401, 40, (76, 101)),
        (400, 300, 37, (50, 38)),
        (100, 30, 64, (100, 30)),  # nothing is made larger
    ],
)
def test_a_jpeg_may_come_reduced_but_not_below_what_is_enough(
    height: int, width: int, enough: int, shape: tuple[int, int]
):
    tile = np.kron(np.arange(48).reshape(6, 8, 1) * 5, np.ones((80, 80, 3))).astype(np.uint8)
    data = encoded(Image.fromarray(np.ascontiguousarray(tile[:height, :width])), "JPEG")
    reduced = decode(data, "here", enough)
    assert reduced.shape == (*shape, 3)
    box = Image.fromarray(decode(data, "here")).resize((shape[1], shape[0]), Image.Resampling.BOX)
    assert np.abs(reduced.astype(int) - np.asarray(box)).mean() < 2


def test_what_is_no_jpeg_comes_whole():
    for name in ("rgba", "cmyk", "animated webp"):
        data = good()[name]
        np.testing.assert_array_equal(decode(data, "here", 8), decode(data, "here"))


def test_a_decoded_picture_comes_back_and_its_shape_is_checked():
    assert decode(PIXELS, "here") is PIXELS
    with pytest.raises(BadRecord, match=r"^row 3: .*501 x 1 pixels"):
        decode(np.zeros((1, 501, 3), np.uint8), "row 3")
    with pytest.raises(BadRecord, match=r"^row 3: .*9 x 0 pixels: it is empty"):
        decode(np.zeros((0, 9, 3), np.uint8), "row 3")


def test_bad_records_are_user_errors_that_cross_processes():
    error = pickle.loads(pickle.dumps(BadRecord("pairs.csv row 17: no")))
    assert isinstance(error, UserError) and str(error) == "pairs.csv row 17: no"
