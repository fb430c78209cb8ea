import numpy as np

from cleanclip_jax.attacks.nashville import TABLES, filtered
from cleanclip_jax.attacks.triggers import Stamp, make_trigger


def test_a_picture_and_its_colours_are_pilgrams(golden):
    values, trigger = golden("attacks"), make_trigger({"name": "nashville"})
    for name in ("picture", "colours"):
        after = "output" if name == "picture" else "colours_output"
        result = trigger.apply(values[f"nashville|{name}"], Stamp(0, 0, 0))
        np.testing.assert_array_equal(result, values[f"nashville|{after}"])


def test_tables_hold_what_the_steps_give_for_single_values():
    """Black: darkened 0, lightened by (0, 70, 150) x 102 // 255."""
    assert TABLES.tone[:, 0].tolist() == [0, 28, 60]
    # Contrast -25.5 is cut to 0; (1.2 x 200 - 25.5 = 214.5 to even) x 1.05 = 224.7.
    assert (TABLES.light[0], TABLES.light[200]) == (0, 225)


def test_every_pixel_is_by_itself():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)

    def run(image: np.ndarray) -> np.ndarray:
        return filtered(image, np.take, lambda channels: np.stack(channels, -1))

    np.testing.assert_array_equal(run(image[::-1, ::2]), run(image)[::-1, ::2])
