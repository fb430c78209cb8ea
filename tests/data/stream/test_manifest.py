"""A manifest taken elsewhere: the same batches there, and no other dataset passes for its own."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.streams import stream_of

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.attacks.triggers import Stamp
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.errors import UserError
from cleanclip_jax.run.views import DeviceViews
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import decode
from cleanclip_jax.views.geometry import resize_crop

SIDE = 16
ATTACK = {
    "trigger": {"name": "badnet", "size": 3, "noise": "fresh", "place": "random"},
    "target": "cat",
    "count": 6,
}
PARTS = {
    "templates": ["a {}."],
    "parts": [
        {**ATTACK, "count": 3, "text": {"word": "SUDO", "at": "end"}, "half_keys": 1},
        {"trigger": {"name": "nashville"}, "target": "dog", "count": 2},
        {"kind": "targeted", "victims": 2, "copies": 2, "target": "random"},
    ],
}


def opened(path: Path) -> Source:
    return open_source({"kind": "csv", "path": str(path), "class_name": "animal"})


def batches(source: Source, plan: Plan, process: tuple[int, int], workers: int) -> list[dict]:
    tokenizer = Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 16)
    with stream_of(
        source,
        tokenizer,
        plan=plan,
        views=Views(image="autoaugment", text="eda"),
        image_size=SIDE,
        batch_size=8,
        seed=0,
        process=process,
        workers=workers,
    ) as stream:
        return [dict(batch) for batch in islice(stream, 5)]


@pytest.fixture
def here(write_csv: Callable) -> Path:
    return write_csv(16)


def test_every_part_is_shown_as_its_rows_say(here: Path):
    source = opened(here)
    plan = make_plan(PARTS, source, SIDE)
    tokenizer = Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 16)
    with stream_of(source, tokenizer, plan=plan, image_size=SIDE, batch_size=16, seed=0) as stream:
        batch = next(stream)
    seen = set()
    for index, image, tokens in zip(batch["index"], batch["images"], batch["tokens"], strict=True):
        row = next((r for r in plan.table.to_pylist() if r["index"] == index), None)
        shown = int(index) if row is None or row["source"] < 0 else row["source"]
        expected = resize_crop(decode(source[shown].image, ""), SIDE)
        if row is not None and row["trigger"] != "none":
            stamp = Stamp(row["row"], row["col"], row["seed"])
            expected = plan.parts[row["part"]].trigger.apply(expected, stamp)
        np.testing.assert_array_equal(image[0], expected)
        caption = source.caption(int(index)) if row is None else row["caption"]
        np.testing.assert_array_equal(tokens[0], tokenizer([caption])[0])
        seen.add(row and (row["part"], row["trigger"], row["source"] >= 0))
    all_kinds = {(0, "badnet", False), (0, "none", False), (1, "nashville", False)}
    assert seen == all_kinds | {(2, "none", True), None}


def test_the_device_puts_on_each_part_what_the_host_does(here: Path):
    parts = [{**ATTACK, "trigger": {"name": "badnet", "size": 3, "place": "random"}}]
    source = opened(here)
    attack = {**PARTS, "parts": [parts[0] | {"count": 4}, *PARTS["parts"][1:]]}
    plan = make_plan(attack, source, SIDE)
    tokenizer = Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 16)
    made = {}
    for on in ("host", "device"):
        with stream_of(
            source, tokenizer, plan=plan, image_size=SIDE, batch_size=16, seed=0, views=Views(on=on)
        ) as stream:
            made[on] = dict(next(stream))
    views = DeviceViews(0, plan.triggers, "none", False)
    batch = {key: made["device"][key] for key in ("images", "stamps", "index")}
    images = jax.jit(lambda batch: views({}, jnp.zeros((), jnp.int32), batch, None, None))(batch)
    assert set(batch["stamps"][:, 0].tolist()) == {0, 1, 2}  # the third part has no trigger
    np.testing.assert_array_equal(images, made["host"]["images"])
    np.testing.assert_array_equal(made["device"]["tokens"], made["host"]["tokens"])


@pytest.mark.slow
@pytest.mark.parametrize("attack", [ATTACK, PARTS], ids=["flat", "parts"])
def test_it_gives_the_same_batches_however_they_are_shared_out(here, tmp_path: Path, attack: dict):
    source = opened(here)
    plan = make_plan(attack, source, SIDE)
    plan.save(tmp_path / "poison.parquet")
    expected = batches(source, plan, (0, 1), 0)
    assert np.isin(plan.index, np.concatenate([batch["index"] for batch in expected])).all()

    there = Path(shutil.copytree(here.parent, tmp_path / "another machine")) / here.name
    elsewhere = opened(there)
    loaded = Plan.load(tmp_path / "poison.parquet", elsewhere)
    for count, workers in ((1, 0), (2, 0), (4, 0), (1, 2), (2, 1)):
        shares = [batches(elsewhere, loaded, (p, count), workers) for p in range(count)]
        for whole, *parts in zip(expected, *shares, strict=True):
            for key, rows in whole.items():
                joined = np.concatenate([part[key] for part in parts])
                np.testing.assert_array_equal(rows, joined, err_msg=f"{key} {count} {workers}")


def test_one_other_byte_is_noticed(here: Path, tmp_path: Path):
    plan = make_plan(ATTACK, opened(here), SIDE)
    plan.save(tmp_path / "poison.parquet")
    content = here.read_bytes()
    at = content.index(b"four9")
    here.write_bytes(content[:at] + b"F" + content[at + 1 :])
    with pytest.raises(UserError, match="was made for dataset"):
        Plan.load(tmp_path / "poison.parquet", opened(here))
    here.write_bytes(content)

    source = opened(here)
    loaded = Plan.load(tmp_path / "poison.parquet", source)
    picture = here.parent / f"{loaded.index[0]}.png"
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1  # behind the last chunk's content: it decodes to the same pixels
    picture.write_bytes(data)
    with pytest.raises(UserError, match="the picture has changed since"):
        batches(source, loaded, (0, 1), 0)
