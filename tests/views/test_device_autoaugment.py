"""The device's AutoAugment against the host's, which tests/images holds against the original's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torchvision_ops import OPS, torchvision_view
from PIL import Image

from cleanclip_jax.sharding import make_mesh, split_over
from cleanclip_jax.views import autoaugment as host
from cleanclip_jax.views import device_levels as levels
from cleanclip_jax.views.autoaugment import POLICY, SIGNED, magnitude
from cleanclip_jax.views.device_autoaugment import (
    NOTHING,
    Entry,
    apply_ops,
    augment,
    draw,
    policy_entries,
)

RUN, DRAW = jax.jit(augment), jax.jit(draw)


def every_entry(height: int, width: int) -> list[Entry]:
    """Each op at each level, both ways; and turns that the policy doesn't make."""
    entries = [NOTHING, *(("Rotate", angle) for angle in (90.0, 180.0, -270.0, 360.0))]
    for op in OPS:
        for level in range(10):
            size = magnitude(op, level, height, width)
            entries += [(op, sign * size) for sign in ((1, -1) if op in SIGNED else (1,))]
    return entries


def some_pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """By turns of many values, of a few, of one in a channel, and around one."""
    rng, shape = np.random.default_rng(seed), (height, width, 3)
    makers = (
        lambda: rng.integers(0, 256, shape),
        lambda: rng.choice(rng.integers(256, size=rng.integers(2, 5)), shape),
        lambda: np.where([True, False, True], rng.integers(0, 256, shape), rng.integers(256)),
        lambda: rng.normal(rng.integers(256), 15, shape),
    )
    pictures = [makers[number % 4]().clip(0, 255) for number in range(count)]
    return np.stack(pictures).astype(np.uint8)


def on_host(picture: np.ndarray, ops: list[Entry]) -> np.ndarray:
    return np.asarray(host.apply_ops(Image.fromarray(picture), [op for op in ops if op[0]]))


def test_every_op_is_the_originals(golden):
    values = golden("autoaugment_ops")
    image = values.pop("image")
    entries = []
    for name in values:
        op, level, sign = name.split("|")
        entries.append((op, int(sign) * magnitude(op, int(level), *image.shape[:2])))
    assert {op for op, _ in entries} == set(OPS)
    slots = np.arange(len(entries), dtype=np.int32)[:, None]
    batch = np.broadcast_to(image, (len(entries), *image.shape))
    made = jax.jit(lambda images, slots: apply_ops(images, slots, [entries]))(batch, slots)
    made = np.asarray(made)
    for name, expected, ours in zip(values, values.values(), made, strict=True):
        np.testing.assert_array_equal(ours, expected, err_msg=name)


@pytest.mark.parametrize(("height", "width", "rounds"), [(24, 24, 8), (17, 30, 4), (2, 9, 2)])
def test_pairs_of_ops_are_the_hosts(height: int, width: int, rounds: int):
    """Every op at every level and sign in either slot, on several kinds of pictures."""
    entries = every_entry(height, width)
    if height != width:  # a quarter turn of those is another matter, and of no policy
        entries = [entry for entry in entries if entry not in (("Rotate", 90), ("Rotate", -270))]
    apply = jax.jit(lambda images, slots: apply_ops(images, slots, [entries, entries]))
    count, changes = len(entries), 0
    for seed in range(rounds):
        images = some_pictures(count, height, width, seed)
        rng = np.random.default_rng(seed)
        slots = np.stack([rng.permutation(count) for _ in range(2)], 1).astype(np.int32)
        made = np.asarray(apply(images, slots))
        for picture, slot, ours in zip(images, slots, made, strict=True):
            ops = [entries[number] for number in slot]
            np.testing.assert_array_equal(ours, on_host(picture, ops), err_msg=str(ops))
            changes += (ours != picture).any()
    assert changes > rounds * count / 2


def test_autocontrast_is_pillows_for_every_range():
    """The host's float64 leaves one value in 200 a grey level lower than true arithmetic does."""
    ends = np.random.default_rng(0).permutation(np.transpose(np.triu_indices(256)))
    low, high = np.moveaxis(ends[: 3 * 800].reshape(-1, 3, 2, 1), 2, 0)
    values = np.arange(256)
    occurs = (values >= low) & (values <= high)
    counts = ((values == low) | (values == high)).astype(np.int32)
    expected = np.stack([host._autocontrast(histogram) for histogram in counts])
    ours = np.asarray(jax.jit(levels.autocontrast)(counts))
    np.testing.assert_array_equal(ours[occurs], expected[occurs])
    true = 255 * (values - low) // np.maximum(high - low, 1)
    assert (ours < true)[occurs & (high > low)].sum() > 300


@pytest.mark.parametrize("way", [levels.scattered, levels.compared, levels.histogram])
def test_each_way_to_count_counts(way):
    images = some_pictures(4, 13, 7)
    counts = jax.jit(way)(images)
    for picture, ours in zip(images, counts, strict=True):
        expected = [
            np.bincount(picture[..., channel].reshape(-1), minlength=256) for channel in range(3)
        ]
        np.testing.assert_array_equal(ours, expected)


DRAWS = 8000


def test_draws_have_the_policys_distribution():
    drawn = np.asarray(DRAW(jax.random.split(jax.random.key(0), DRAWS)))
    entries = policy_entries(32, 32)
    row, positive = (drawn - 1) // 2, (drawn - 1) % 2 == 1
    applied = drawn > 0
    # Sub-policies are known from draws in which a step applies, each step by its own chance.
    expected = {
        (slot, number): steps[slot].chance / len(POLICY)
        for number, steps in enumerate(POLICY)
        for slot in range(2)
    }
    for (slot, number), share in expected.items():
        drawn_share = (applied[:, slot] & (row[:, slot] == number)).mean()
        assert drawn_share == pytest.approx(share, abs=4 * np.sqrt(share / DRAWS) + 1e-9)
    both = applied.all(1)
    assert (row[both, 0] == row[both, 1]).all()
    together = np.mean([a.chance * b.chance for a, b in POLICY])
    assert both.mean() == pytest.approx(together, abs=0.025)
    assert np.corrcoef(positive[both].T)[0, 1] == pytest.approx(0, abs=0.06)
    assert positive[applied].mean() == pytest.approx(0.5, abs=0.02)
    for slot in range(2):
        for number, steps in enumerate(POLICY):
            op, _, level = steps[slot]
            size = magnitude(op, level, 32, 32)
            both_ways = entries[slot][1 + 2 * number : 3 + 2 * number]
            assert both_ways == ((op, -size if op in SIGNED else size), (op, size))


def test_a_picture_depends_on_its_own_key_alone():
    images, keys = some_pictures(64, 16, 16), jax.random.split(jax.random.key(1), 64)
    views = np.asarray(RUN(images, keys))
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(RUN(images[order], keys[order]), views[order])
    assert 40 < (views != images).any((1, 2, 3)).sum() < 64
    entries = policy_entries(16, 16)
    for picture, slot, view in zip(images, np.asarray(DRAW(keys)), views, strict=True):
        ops = [entries[number][at] for number, at in enumerate(slot)]
        np.testing.assert_array_equal(view, on_host(picture, ops), err_msg=str(ops))


@pytest.mark.slow
def test_ten_thousand_draws_give_torchvisions_pixels():
    images = some_pictures(500, 40, 56)
    entries, differences = policy_entries(40, 56), 0
    for seed in range(20):
        keys = jax.random.split(jax.random.key(seed), len(images))
        for picture, slot, view in zip(
            images, np.asarray(DRAW(keys)), np.asarray(RUN(images, keys)), strict=True
        ):
            ops = [entries[number][at] for number, at in enumerate(slot) if at]
            expected = np.asarray(torchvision_view(Image.fromarray(picture), ops))
            differences += (view != expected).any()
    assert not differences


def test_devices_make_what_one_makes_and_say_nothing_to_each_other():
    images, keys = some_pictures(64, 16, 16), jax.random.split(jax.random.key(1), 64)
    over = split_over(make_mesh())
    placed = jax.device_put(jnp.asarray(images), over), jax.device_put(keys, over)
    compiled = RUN.lower(*placed).compile()
    views = compiled(*placed)
    assert views.sharding.is_equivalent_to(over, views.ndim)
    np.testing.assert_array_equal(views, RUN(images, keys))
    text = compiled.as_text() or ""
    assert "gather" in text
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in text


def test_an_unknown_op_is_refused():
    with pytest.raises(ValueError, match="no such op: Cutout"):
        apply_ops(
            jnp.zeros((1, 4, 4, 3), jnp.uint8), jnp.zeros((1, 1), jnp.int32), [[("Cutout", 1)]]
        )
