"""The strong view, held against torchvision's transforms as they are on Pillow pictures."""

import math
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cleanclip_jax.views.strong import (
    JITTER,
    RATIOS,
    Draw,
    apply,
    draw,
    draw_box,
    shift_hue,
    strong,
)


def photograph(width: int, height: int) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height))


def torchvisions(image: Image.Image, drawn: Draw, size: int) -> Image.Image:
    """What torchvision's transforms do in their order with what was drawn, but for the blur."""
    if drawn.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top, width, height = drawn.box
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    for op, factor in drawn.colours:
        if op == "Hue":
            h, s, v = image.convert("HSV").split()
            turned = np.array(h, np.uint8) + np.array(int(factor * 255)).astype(np.uint8)
            image = Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")
        else:
            enhancer = {"Brightness": ImageEnhance.Brightness, "Contrast": ImageEnhance.Contrast}
            image = enhancer.get(op, ImageEnhance.Color)(image).enhance(factor)
    if drawn.grey:
        grey = np.array(image.convert("L"))
        image = Image.fromarray(np.dstack([grey] * 3))
    return image


def blurred_by_torch(image: Image.Image, sigma: float) -> np.ndarray:
    """gaussian_blur of torchvision's functional_tensor, kernel 21."""
    torch = pytest.importorskip("torch")
    x = torch.linspace(-10.0, 10.0, 21)
    one = torch.exp(-0.5 * (x / sigma) ** 2)
    one = one / one.sum()
    kernel = torch.mm(one[:, None], one[None]).expand(3, 1, 21, 21)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    padded = torch.nn.functional.pad(pixels, [10] * 4, mode="reflect")
    result = torch.nn.functional.conv2d(padded, kernel, groups=3)
    return result.round()[0].permute(1, 2, 0).to(torch.uint8).numpy()


def test_views_are_torchvisions():
    rng, image = np.random.default_rng(0), photograph(81, 57)
    grey = 0
    for i in range(30):
        drawn = draw(rng, *image.size)
        ours = apply(image, drawn, 40)
        expected = blurred_by_torch(torchvisions(image, drawn, 40), drawn.sigma)
        apart = np.abs(ours.astype(int) - expected)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01, (i, drawn)
        grey += drawn.grey and not np.ptp(ours, axis=-1).any()
    assert grey


def test_a_hue_is_turned_towards_0_in_whole_steps():
    image = Image.new("RGB", (1, 1), (200, 10, 10))
    assert shift_hue(image, 0.0).tobytes() == bytes((200, 10, 10))
    before = image.convert("HSV").tobytes()[0]
    for turns in (-0.1, 0.1):
        after = shift_hue(image, turns).convert("HSV").tobytes()[0]
        assert abs((after - before - int(turns * 255) + 128) % 256 - 128) <= 1


@pytest.mark.parametrize(("width", "height"), [(100, 70), (31, 64), (1000, 2), (2, 1000), (1, 1)])
@pytest.mark.parametrize("least", [0.08, 0.9, 1.0])
def test_boxes_lie_inside(width: int, height: int, least: float):
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top, w, h = draw_box(rng, width, height, least)
        assert w >= 1 and h >= 1 and left >= 0 and top >= 0
        assert left + w <= width and top + h <= height


def test_boxes_follow_the_law():
    """Shares uniform from the least to 1 and shapes uniform in the logarithm, where they fit."""
    rng = np.random.default_rng(0)
    boxes = [draw_box(rng, 2000, 2000, 0.08) for _ in range(4000)]
    shares = np.array([w * h / 4e6 for _, _, w, h in boxes])
    shapes = np.log([w / h for _, _, w, h in boxes]) / math.log(RATIOS[1])
    small = np.sort(shares[shares < 0.7])  # of any shape these fit
    assert shares.min() >= 0.0799 and abs(np.mean(small) - 0.39) < 0.02
    inside = shapes[shares < 0.7]
    assert np.abs(shapes).max() <= 1.01 and abs(inside.mean()) < 0.05
    assert abs(inside.std() - 1 / math.sqrt(3)) < 0.03
    lefts = [left / (2000 - w) for left, _, w, _ in boxes if w < 1500]
    assert abs(np.mean(lefts) - 0.5) < 0.03 and abs(np.std(lefts) - 1 / math.sqrt(12)) < 0.02


def test_draws_follow_the_law():
    rng = np.random.default_rng(0)
    draws = [draw(rng, 224, 224) for _ in range(4000)]
    shares = {
        "flip": np.mean([d.flip for d in draws]),
        "jitter": np.mean([bool(d.colours) for d in draws]),
        "grey": np.mean([d.grey for d in draws]),
        "sigma": np.mean([d.sigma for d in draws]),
    }
    expected = {"flip": 0.5, "jitter": 0.8, "grey": 0.2, "sigma": 1.05}
    assert all(abs(shares[name] - expected[name]) < 0.03 for name in expected), shares
    orders = {tuple(op for op, _ in d.colours) for d in draws}
    assert len(orders) == 24 + 1
    factors = {op: [dict(d.colours)[op] for d in draws if d.colours] for op in JITTER}
    for op, values in factors.items():
        low, high = (-0.1, 0.1) if op == "Hue" else (0.5, 1.5)
        assert low <= min(values) < low + 0.01 and high - 0.01 < max(values) <= high


def test_the_draw_decides_all_and_pictures_of_any_size_have_a_view():
    for (width, height), size in product([(1, 1), (300, 20), (16, 16)], (8, 24)):
        image = photograph(width, height)
        views = [strong(image, size, np.random.default_rng(seed)) for seed in (1, 1, 2)]
        assert views[0].shape == (size, size, 3)
        np.testing.assert_array_equal(views[0], views[1])
        assert width == 1 or (views[0] != views[2]).any()
