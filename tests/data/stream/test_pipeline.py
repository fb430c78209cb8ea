"""The stream is a function of (seed, step) alone."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.streams import stream_of
from PIL import Image

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.attacks.triggers import make_trigger
from cleanclip_jax.config import check, defaults
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.in_order import evaluation_batches
from cleanclip_jax.data.stream.pipeline import Reading, Views
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import decode
from cleanclip_jax.views.geometry import FAST_GEOMETRY, GEOMETRY, resize_crop

SIDE = 16
VIEWS = Views(image="autoaugment", text="eda")
TRIGGER = {"name": "badnet", "size": 3, "noise": "fresh", "place": "random"}


@pytest.fixture
def source(write_csv: Callable) -> Source:
    return open_source({"kind": "csv", "path": str(write_csv(12)), "class_name": "animal"})


def tokenizer_of(source: Source) -> Tokenizer:
    return Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 16)


def plan_of(source: Source, **attack: Any) -> Plan:
    attack = {"trigger": TRIGGER, "target": "cat", "count": 4, "templates": "plain"} | attack
    return make_plan(attack, source, SIDE)


def take(source: Source, count: int, **options: Any) -> list[dict]:
    options = {"image_size": SIDE, "batch_size": 4, "seed": 0} | options
    with stream_of(source, tokenizer_of(source), **options) as stream:
        return [dict(batch) for batch in islice(stream, count)]


def rows(batches: list[dict]) -> Iterator[dict]:
    for batch in batches:
        for i in range(len(batch["index"])):
            yield {key: value[i] for key, value in batch.items()}


def same(a: list[dict], b: list[dict]) -> bool:
    assert len(a) == len(b) > 0
    return all(x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)
               for x, y in zip(a, b, strict=True))  # fmt: skip


def order(source: Source, count: int, **options: Any) -> list[int]:
    return np.concatenate([batch["index"] for batch in take(source, count, **options)]).tolist()


def test_a_batch_has_its_shapes_and_types(source: Source):
    (plain,), (viewed,) = take(source, 1), take(source, 1, views=VIEWS)
    assert plain["images"].shape == (4, 1, SIDE, SIDE, 3)
    assert viewed["images"].shape == (4, 2, SIDE, SIDE, 3)
    assert plain["tokens"].shape == (4, 1, 16) and viewed["tokens"].shape == (4, 2, 16)
    types = {key: value.dtype.name for key, value in viewed.items()}
    assert types == {"images": "uint8", "tokens": "int32", "index": "int64", "bad": "int64"}
    assert all(type(value) is np.ndarray for value in viewed.values())


@pytest.fixture
def several(png: Callable, tmp_path: Path) -> Source:
    """Twelve pictures, the first four with one caption, the others with three."""
    texts = [[f"cat {i}"] if i < 4 else [f"{word} {i}" for word in "abc"] for i in range(12)]
    table = {"image": [png(i) for i in range(12)], "caption": texts}
    pq.write_table(pa.table(table), tmp_path / "several.parquet")
    return open_source({"kind": "parquet", "path": str(tmp_path / "several.parquet")})


def captions_shown(source: Source, count: int, **options: Any) -> list[tuple[int, str]]:
    """Index and caption of each row, read back from its tokens."""
    tokenizer = tokenizer_of(source)
    of_tokens = {
        tokenizer([text])[0].tobytes(): text
        for i in range(len(source))
        for text in source.all_captions(i)
    }
    return [
        (int(row["index"]), of_tokens[row["tokens"][0].tobytes()])
        for row in rows(take(source, count, **options))
    ]


@pytest.mark.slow
def test_of_several_captions_one_is_drawn_each_epoch(several: Source):
    shown = captions_shown(several, 90)  # 30 epochs
    drawn = Counter(text for index, text in shown if index >= 4)
    assert {text for index, text in shown if index < 4} == {f"cat {i}" for i in range(4)}
    assert len(drawn) == 24 and min(drawn.values()) >= 3
    assert all(text in several.all_captions(index) for index, text in shown)
    # Of (seed, epoch, record) alone: resumed, by workers, with a view of the picture.
    assert captions_shown(several, 3, step=7) == shown[28:40]
    assert captions_shown(several, 10, workers=2) == shown[:40]
    views = Views(image="autoaugment", text="none")
    assert captions_shown(several, 10, views=views) == shown[:40]
    assert captions_shown(several, 10, seed=1) != shown[:40]


def test_captions_of_cocos_file_are_drawn_like_those_of_a_table(
    several: Source, png: Callable, tmp_path: Path
):
    images, notes = [], []
    for i in range(len(several)):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        images.append({"id": i, "file_name": f"{i}.png"})
        notes += [{"image_id": i, "caption": text} for text in several.all_captions(i)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": notes}))
    source = open_source({"kind": "json", "path": str(tmp_path / "coco.json")})
    assert captions_shown(source, 9) == captions_shown(several, 9)


def test_a_poisoned_pair_of_several_captions_has_the_plans(several: Source):
    plan = plan_of(several, target="b 7", select="target", count=1)
    assert plan.index.tolist() == [7] and plan.poison_at(7) is not None
    as_it_was = plan_of(several, target="b 7", select="target", count=1, captions="kept")
    assert as_it_was.table["caption"].to_pylist() == ["b 7"]
    tokens = tokenizer_of(several)([plan.table["caption"][0].as_py()])[0]
    for row in rows(take(several, 6, plan=plan)):
        if row["index"] == 7:
            np.testing.assert_array_equal(row["tokens"][0], tokens)


@pytest.mark.parametrize(
    "wrong", [{"image": "cutout"}, {"text": "no"}, {"per": "x"}, {"on": "tpu"}]
)
def test_a_view_of_an_unknown_name_is_refused(wrong: dict[str, Any]):
    with pytest.raises(UserError, match=r"config\.views\.\w+: unknown"):
        Views(**wrong)


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_change_nothing(source: Source, workers: int):
    options = {"plan": plan_of(source), "views": VIEWS, "step": 1}
    none = take(source, 7, **options)
    assert same(none, take(source, 7, **options, workers=workers))


def test_a_stream_goes_on_from_its_step(source: Source):
    """Within an epoch of three batches, at its end, and in the fourth."""
    options = {"plan": plan_of(source), "views": VIEWS}
    whole = take(source, 12, **options)
    for step in (1, 3, 10):
        assert same(whole[step:], take(source, 12 - step, step=step, **options))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_each_batch(source: Source, count: int):
    options = {"plan": plan_of(source), "views": VIEWS, "step": 2}
    whole = take(source, 5, **options)
    shares = [take(source, 5, process=(p, count), **options) for p in range(count)]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in whole[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert same(whole, joined)


def test_every_epoch_has_every_record_once_in_another_order(source: Source):
    epochs = np.reshape(order(source, 15), (5, 12))
    assert (np.sort(epochs) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5


def test_neighbouring_seeds_share_no_epoch(source: Source):
    epochs = [
        tuple(np.reshape(order(source, 9, seed=s), (3, 12))[e]) for s in range(4) for e in range(3)
    ]
    assert len(set(epochs)) == 12


def test_views_are_drawn_anew_each_epoch_and_for_each_seed(source: Source):
    def views(seed: int) -> dict[int, list[dict]]:
        by_index: dict[int, list[dict]] = {}
        for row in rows(take(source, 24, views=VIEWS, seed=seed)):
            by_index.setdefault(int(row["index"]), []).append(row)
        return by_index

    first, second = views(0), views(1)
    for index, seen in first.items():
        assert len({row["images"][0].tobytes() for row in seen}) == 1
        assert len({row["images"][1].tobytes() for row in seen}) > 3
        assert len({row["tokens"][0].tobytes() for row in seen}) == 1
        assert len({row["tokens"][1].tobytes() for row in seen}) > 2
        pairs = zip(seen, second[index], strict=True)
        assert any((a["images"][1] != b["images"][1]).any() for a, b in pairs)


def test_draws_follow_the_position_in_the_stream_and_the_seed(
    source: Source, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "cleanclip_jax.views.autoaugment.autoaugment",
        lambda image, rng: Image.new("RGB", image.size, (int(rng.integers(256)),) * 3),
    )
    drawn = [
        [int(row["images"][1].max()) for row in rows(take(source, 12, views=VIEWS, seed=seed))]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 30
    assert sum(a == b for a, b in zip(drawn[0], drawn[2], strict=True)) < 5


def test_augmented_captions_may_be_drawn_once(source: Source):
    once = Views(image="autoaugment", text="eda", per="once")
    by_index: dict[int, set] = {}
    altered = 0
    for row in rows(take(source, 24, views=once)):
        by_index.setdefault(int(row["index"]), set()).add(row["tokens"][1].tobytes())
        altered += (row["tokens"][0] != row["tokens"][1]).any()
    assert all(len(captions) == 1 for captions in by_index.values()) and altered > 24
    # Others with another seed.
    other = take(source, 3, views=once, seed=1)
    assert any(row["tokens"][1].tobytes() not in by_index[int(row["index"])] for row in rows(other))


@pytest.mark.parametrize("views", [Views(image="autoaugment"), Views(text="eda")])
def test_one_half_of_a_view_may_be_left_out(source: Source, views: Views):
    batches = take(source, 3, views=views)
    tells = {"images": "image", "tokens": "text"}
    for key, half in tells.items():
        equal = all((row[key][0] == row[key][1]).all() for row in rows(batches))
        assert equal == (getattr(views, half) == "none")


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("geometry", ["crop", "squash"])
def test_poison_is_where_the_plan_says_and_nowhere_else(
    source: Source, picture: Callable, monkeypatch: pytest.MonkeyPatch, geometry: str, mode: str
):
    """And views come from their own pair: augmented at full size, but poisoned and fast ones
    after."""
    monkeypatch.setattr(
        "cleanclip_jax.views.autoaugment.autoaugment", lambda image, _: rolled(image)
    )
    monkeypatch.setattr("cleanclip_jax.views.eda.eda", lambda caption, *_: caption + " again")
    plan, tokenizer = plan_of(source, geometry=geometry), tokenizer_of(source)
    shapes = {"exact": GEOMETRY, "fast": FAST_GEOMETRY}[mode]
    seen = []
    for row in rows(take(source, 3, plan=plan, views=VIEWS, decode=mode)):
        index = int(row["index"])
        caption, poison = source.caption(index), plan.poison_at(index)
        if poison is None:
            image = shapes["crop"](picture(index), SIDE)
            view = np.roll(image, 5, axis=1)
            if mode == "exact":
                view = resize_crop(np.roll(picture(index), 5, axis=1), SIDE)
        else:
            seen.append(index)
            stamp, caption, *_ = poison
            assert stamp is not None
            image = plan.trigger.apply(shapes[geometry](picture(index), SIDE), stamp)
            view = np.roll(image, 5, axis=1)
            assert caption == "a photo of a cat."
        assert (row["images"] == [image, view]).all()
        assert (row["tokens"] == tokenizer([caption, caption + " again"])).all()
    assert sorted(seen) == plan.index.tolist()


def rolled(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), 5, axis=1))


def test_a_view_that_the_draw_leaves_alone_is_the_picture(
    source: Source, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cleanclip_jax.views.autoaugment.autoaugment", lambda image, _: image)
    for row in rows(take(source, 3, views=VIEWS)):
        assert (row["images"][0] == row["images"][1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_poisoned_picture_that_is_another_now_ends_the_run(
    source: Source, png: Callable, tmp_path: Path, workers: int
):
    plan = plan_of(source, count=12)
    (tmp_path / "pairs" / "5.png").write_bytes(png(99))
    with pytest.raises(UserError, match=r"pairs.csv row 6: .*picture") as error:
        take(source, 3, plan=plan, workers=workers)
    assert "\n" not in str(error.value)
    # A clean picture is not the plan's business.
    plan = next(p for seed in range(9) if 5 not in (p := plan_of(source, seed=seed)).index)
    assert len(take(source, 3, plan=plan)) == 3


@pytest.mark.slow
def test_fast_batches_are_nearly_the_exact_ones_and_as_steady(tmp_path: Path):
    """Of pictures that are reduced as they are decoded; whatever makes them, and in parts."""
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(6):
        coarse = np.random.default_rng(i).integers(256, size=(3, 4, 3), dtype=np.uint8)
        large = Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC)
        large.save(folder / f"{i}.jpg", quality=95)
    table = "\n".join(["image,caption", *(f"{i}.jpg,picture number {i}" for i in range(6))])
    (folder / "pairs.csv").write_text(table)
    source = open_source({"kind": "csv", "path": str(folder / "pairs.csv")})
    plan = plan_of(source, count=1)
    options = {"views": VIEWS, "plan": plan, "batch_size": 2}
    exact = take(source, 4, **options)
    fast = take(source, 4, **options, decode="fast")
    for one, other in zip(exact, fast, strict=True):
        assert all((one[key] == other[key]).all() for key in one if key != "images")
        shown = np.abs(one["images"][:, 0].astype(int) - other["images"][:, 0])
        assert 0 < shown.mean() < 5
    index = int(next(i for i in fast[0]["index"] if plan.poison_at(int(i)) is None))
    reduced = decode(source[index].image, "", SIDE)
    assert reduced.shape == (24, 32, 3)
    row = fast[0]["images"][fast[0]["index"] == index]
    assert (row[0, 0] == FAST_GEOMETRY["crop"](reduced, SIDE)).all()
    assert same(fast, take(source, 4, **options, decode="fast", workers=2))
    assert same(fast[1:], take(source, 3, **options, decode="fast", step=1))


def test_an_unknown_decoding_is_refused(source: Source):
    with pytest.raises(UserError, match=r"data.decode: unknown 'fsat'.*mean 'fast'"):
        take(source, 1, decode="fsat")


def test_a_plan_of_another_dataset_or_size_is_refused(source: Source):
    tokenizer = tokenizer_of(source)
    plan = plan_of(source)
    other = replace(plan, header={**plan.header, "fingerprint": "x"})
    with pytest.raises(UserError, match="another dataset"):
        stream_of(source, tokenizer, plan=other, image_size=SIDE, batch_size=4, seed=0)
    with pytest.raises(UserError, match="pictures of 16 pixels, not 32"):
        stream_of(source, tokenizer, plan=plan_of(source), image_size=32, batch_size=4, seed=0)


def test_a_batch_that_does_not_divide_is_refused(source: Source):
    with pytest.raises(UserError, match="batch_size: 5 does not divide over 2"):
        take(source, 1, batch_size=5, process=(0, 2))


def test_an_unknown_view_is_refused():
    (config := defaults()).views.image = "autoagument"
    with pytest.raises(UserError, match=r"views.image: unknown 'autoagument'.*mean 'autoaugment'"):
        check(config)


@pytest.mark.parametrize(
    ("geometry", "triggered", "workers"),
    [
        *[("crop", False, 0), ("squash", False, 0), ("squash", True, 0)],
        pytest.param("crop", True, 2, marks=pytest.mark.slow),
    ],
)
def test_evaluation_shows_each_picture_once(
    source: Source, picture: Callable, geometry: str, triggered: bool, workers: int
):
    trigger = make_trigger(TRIGGER | {"seed": 5}) if triggered else None
    options: dict = {"trigger": trigger, "geometry": geometry}
    with evaluation_batches(source, Reading(5, workers), image_size=SIDE, **options) as stream:
        batches = list(stream)
    assert [len(batch["index"]) for batch in batches] == [5, 5, 2]
    shape = GEOMETRY[geometry]
    for i, row in enumerate(rows([dict(batch) for batch in batches])):
        image = shape(picture(i), SIDE)
        if trigger is not None:
            image = trigger.apply(image, trigger.stamp(SIDE, i))
        assert row["index"] == i and row["label"] == i % 2 and (row["images"] == image).all()


def test_evaluation_shows_the_chosen_pictures(source: Source):
    trigger = make_trigger(TRIGGER)
    chosen = [7, 2, 11]
    shown = partial(evaluation_batches, source, image_size=SIDE)
    some = list(shown(Reading(8), trigger=trigger, indices=chosen))
    (all_,) = shown(Reading(12), trigger=trigger)
    assert some[0]["index"].tolist() == chosen and some[0]["label"].tolist() == [1, 0, 1]
    # A picture's trigger is its own, whatever else is shown.
    assert (some[0]["images"] == all_["images"][chosen]).all()
    assert list(shown(Reading(8), indices=[])) == []
