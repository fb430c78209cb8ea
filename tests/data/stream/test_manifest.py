"""A manifest taken elsewhere: the same batches there, and no other dataset passes for its own."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from helpers.streams import stream_of

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.tokenizer import Tokenizer

SIDE = 16
ATTACK = {
    "trigger": {"name": "badnet", "size": 3, "noise": "fresh", "place": "random"},
    "target": "cat",
    "count": 6,
}


def opened(path: Path) -> Source:
    return open_source({"kind": "csv", "path": str(path)})


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


@pytest.mark.slow
def test_it_gives_the_same_batches_however_they_are_shared_out(here: Path, tmp_path: Path):
    source = opened(here)
    plan = make_plan(ATTACK, source, SIDE)
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
