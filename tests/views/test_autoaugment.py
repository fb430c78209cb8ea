from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image, ImageOps

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
    for op, table in golden("autoaugment_policy.json")["magnitudes"].items():
        ours = [magnitude(op, level, height=72, width=96) for level in range(10)]
        np.testing.assert_allclose(ours, table or [0] * 10, rtol=1e-6, err_msg=op)


IN_PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Posterize": lambda x, m: ImageOps.posterize(x, int(m)),
    "Solarize": lambda x, m: ImageOps.solarize(x, m),  # pyright: ignore[reportArgumentType]
    "AutoContrast": lambda x, _: ImageOps.autocontrast(x),
    "Equalize": lambda x, _: ImageOps.equalize(x),
    "Invert": lambda x, _: ImageOps.invert(x),
    "Rotate": lambda x, m: x.rotate(m),
}


def test_several_ops_are_pillows_one_after_another():
    """On pictures of many values, of few and of one: channels that equalize leaves as they are."""
    rng = np.random.default_rng(0)
    names, changed = list(IN_PILLOW), 0
    for _ in range(600):
        height, width = rng.integers(1, 40, 2).tolist()
        few = rng.choice(rng.integers(256, size=rng.integers(1, 5)), (height, width, 3))
        many = rng.normal(rng.integers(256), 15, (height, width, 3)).clip(0, 255)
        picture = Image.fromarray((few if rng.random() < 0.5 else many).astype(np.uint8))
        expected, ops = picture, []
        for name in rng.choice(names, rng.integers(1, 4)).tolist():
            ops.append((name, magnitude(name, int(rng.integers(10)), height, width)))
            expected = IN_PILLOW[name](expected, ops[-1][1])
        np.testing.assert_array_equal(apply_ops(picture, ops), expected, err_msg=str(ops))
        changed += expected != picture
    assert changed > 300


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
