from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers.torchvision_ops import OPS, torchvision_view
from PIL import Image

from cleanclip_jax.views import autoaugment as auto
from cleanclip_jax.views.autoaugment import POLICY, SIGNED, Step, apply_ops, autoaugment, magnitude


def test_every_op_is_pixel_exact(golden):
    values = golden("autoaugment_ops")
    image = values.pop("image")
    assert len(values) == 9 * 6 + 2 * 3 + 3
    for name, expected in values.items():
        op, level, sign = name.split("|")
        size = magnitude(op, int(level), *image.shape[:2])
        result = apply_ops(Image.fromarray(image), [(op, int(sign) * size)])
        np.testing.assert_array_equal(result, expected, err_msg=name)


def test_the_policy_is_the_published_one(golden):
    values = golden("autoaugment_policy.json")
    leveled = {op for op, table in values["magnitudes"].items() if table is not None}
    ours = [
        [[step.op, step.chance, step.level if step.op in leveled else None] for step in steps]
        for steps in POLICY
    ]
    assert ours == values["policies"]
    assert {op for op, signed in values["signed"].items() if signed} == SIGNED


def test_magnitudes_are_the_published_ones(golden):
    """To the last bit of float32: 0.79999995 and not 0.8."""
    for op, table in golden("autoaugment_policy.json")["magnitudes"].items():
        ours = [magnitude(op, level, height=72, width=96) for level in range(10)]
        assert ours == (table or [0] * 10), op


def test_translations_are_torchs_linspace_at_any_size():
    torch = pytest.importorskip("torch")
    for side in range(1, 1200):
        table = torch.linspace(0.0, 150.0 / 331.0 * side, 10).tolist()
        for op, shape in (("TranslateX", (7, side)), ("TranslateY", (side, 7))):
            assert [magnitude(op, level, *shape) for level in range(10)] == table, side


def photographs(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Cuts of scikit-learn's photograph, brought to (width, height)."""
    from sklearn.datasets import load_sample_image

    whole = Image.fromarray(load_sample_image("china.jpg"))
    return [
        whole.resize(size, box=(40 * i, 10 * i, 40 * i + 400, 10 * i + 320))
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_torchvisions_at_every_level_on_several_pictures(op: str, golden):
    table = golden("autoaugment_policy.json")["magnitudes"][op] or [0.0] * 10
    noise = np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)
    flat = np.broadcast_to(np.array([0, 128, 255], np.uint8), (72, 96, 3)).copy()
    ramp = (np.add.outer(np.arange(72), np.arange(96))[:, :, None] * [1, 2, 3] // 3).astype(
        np.uint8
    )
    pictures = [*map(Image.fromarray, (noise, flat, ramp)), *photographs((96, 72), (96, 72))]
    for picture in pictures:
        for level, size in enumerate(table):
            for signed in (size, -size) if op in SIGNED else (size,):
                ours = apply_ops(picture, [(op, signed)])
                here = magnitude(op, level, picture.height, picture.width)
                assert here == abs(signed)
                np.testing.assert_array_equal(ours, torchvision_view(picture, [(op, signed)]))


class Draws(np.random.Generator):
    """A generator that writes down what it draws, in order."""

    def __init__(self, seed: int):
        super().__init__(np.random.PCG64(seed))
        self.log: list[Any] = []

    def integers(self, *args: Any, **kwargs: Any) -> Any:
        self.log.append(super().integers(*args, **kwargs))
        return self.log[-1]

    def random(self, *args: Any, **kwargs: Any) -> Any:
        self.log.append(super().random(*args, **kwargs))
        return self.log[-1]


def originals_view(picture: Image.Image, values: Any, draw: list[Any]) -> Image.Image:
    """What torchvision makes of a draw: a sub-policy, two chances, two signs."""
    number, chances, positive = draw
    steps = []
    for (op, chance, level), drawn, sign in zip(
        values["policies"][number], chances, positive, strict=True
    ):
        if drawn <= chance:
            size = 0.0 if level is None else values["magnitudes"][op][level]
            steps.append((op, -size if values["signed"][op] and sign == 0 else size))
    return torchvision_view(picture, steps)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_recorded_draws_give_torchvisions_pixels(count: int, golden):
    values = golden("autoaugment_policy.json")
    pictures = photographs((96, 64), (64, 64), (50, 81), (128, 128))
    for seed in range(count):
        picture, rng = pictures[seed % len(pictures)], Draws(seed)
        view = autoaugment(picture, rng)
        expected = originals_view(picture, values, rng.log)
        np.testing.assert_array_equal(view, expected, err_msg=str(rng.log))


def test_several_ops_are_pillows_one_after_another():
    """On pictures of many values, of few and of one: channels that equalize leaves as they are."""
    rng = np.random.default_rng(0)
    names = ["Posterize", "Solarize", "AutoContrast", "Equalize", "Invert", "Rotate"]
    changes = 0
    for _ in range(600):
        height, width = rng.integers(1, 40, 2).tolist()
        few = rng.choice(rng.integers(256, size=rng.integers(1, 5)), (height, width, 3))
        many = rng.normal(rng.integers(256), 15, (height, width, 3)).clip(0, 255)
        picture = Image.fromarray((few if rng.random() < 0.5 else many).astype(np.uint8))
        expected, ops = picture, []
        for name in rng.choice(names, rng.integers(1, 4)).tolist():
            ops.append((name, magnitude(name, int(rng.integers(10)), height, width)))
            expected = OPS[name](expected, ops[-1][1])
        np.testing.assert_array_equal(apply_ops(picture, ops), expected, err_msg=str(ops))
        changes += expected != picture
    assert changes > 300


def test_without_ops_the_image_is_itself():
    assert apply_ops(IMAGE, []) is IMAGE


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8))


def test_the_draw_alone_decides_and_the_input_stays():
    before = IMAGE.copy()
    views, again = (
        [autoaugment(IMAGE, np.random.default_rng(seed)).tobytes() for seed in range(40)]
        for _ in range(2)
    )
    assert views == again and before == IMAGE
    assert len(set(views)) > 15


def applied(monkeypatch, *policy: tuple[Step, Step], draws: int) -> list[list[tuple[str, float]]]:
    """Which ops a policy applies, and at which magnitudes, in each of some draws."""
    monkeypatch.setattr(auto, "POLICY", policy)
    log: list[list[tuple[str, float]]] = []

    def record(image: Image.Image, ops: Sequence[tuple[str, float]]) -> Image.Image:
        log.append(list(ops))
        return image

    monkeypatch.setattr(auto, "apply_ops", record)
    rng = np.random.default_rng(0)
    for _ in range(draws):
        autoaugment(IMAGE, rng)
    return log


def test_each_op_is_applied_with_its_own_chance(monkeypatch):
    steps = Step("Rotate", 0.3, 9), Step("Invert", 0.8)
    log = applied(monkeypatch, steps, draws=2000)
    rotated, inverted = (
        {draw for draw, ops in enumerate(log) if op in dict(ops)} for op in ("Rotate", "Invert")
    )
    assert len(rotated) / 2000 == pytest.approx(0.3, abs=0.04)
    assert len(inverted) / 2000 == pytest.approx(0.8, abs=0.04)
    assert len(rotated & inverted) / 2000 == pytest.approx(0.24, abs=0.04)


def test_signed_ops_go_both_ways_and_others_one(monkeypatch):
    steps = Step("Rotate", 1.0, 9), Step("Solarize", 1.0, 3)
    log = applied(monkeypatch, steps, draws=1000)
    rotations = [dict(ops)["Rotate"] for ops in log]
    assert set(rotations) == {30.0, -30.0}
    assert rotations.count(30.0) / 1000 == pytest.approx(0.5, abs=0.06)
    assert {dict(ops)["Solarize"] for ops in log} == {170.0}


def test_every_sub_policy_is_drawn(monkeypatch):
    policy = tuple((Step("Rotate", 1.0, level), Step("Invert", 0.0)) for level in range(10))
    sizes = [abs(ops[0][1]) for ops in applied(monkeypatch, *policy, draws=1000)]
    counts = np.unique(sizes, return_counts=True)[1]
    assert len(counts) == 10 and counts.min() > 60
