"""One pair's way: what its first view is."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from helpers.streams import stream_of

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.text.tokenizer import Tokenizer


@pytest.fixture
def source(write_csv: Callable) -> Source:
    return open_source({"kind": "csv", "path": str(write_csv(12)), "class_name": "animal"})


def batches(source: Source, count: int, mode: str, views: Views | None = None) -> list[Any]:
    """The rows of so many batches of four."""
    tokenizer = Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 16)
    options: dict[str, Any] = {"image_size": 16, "batch_size": 4, "seed": 0, "decode": mode}
    with stream_of(source, tokenizer, views=views, **options) as stream:
        made: list[dict[str, Any]] = [{**batch} for batch in islice(stream, count)]
    return [{key: rows[i] for key, rows in batch.items()} for batch in made for i in range(4)]


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_strong_first_view_takes_the_pairs_place(source: Source, mode: str):
    """Picture and caption, with or without a second view; other draws each time."""
    plain: dict[int, Any] = {int(row["index"]): row for row in (batches(source, 3, mode))}
    seconds: tuple[dict[str, Any], ...] = ({}, {"image": "strong", "text": "eda"})
    for second in seconds:
        views = Views(**second, first="strong")
        seen = list(batches(source, 6, mode, views))
        for row in seen:
            assert len(row["images"]) == len(row["tokens"]) == 1 + bool(second)
            for picture in row["images"]:
                assert (picture != plain[int(row["index"])]["images"][0]).any()
            assert not second or (row["images"][0] != row["images"][1]).any()
        reworded = [
            (row["tokens"][0] != plain[int(row["index"])]["tokens"][0]).any() for row in seen
        ]
        assert sum(reworded) > 12
    once = Views(image="strong", text="eda", first="strong", per="once")
    twice = list(batches(source, 6, mode, once))
    by_index = {int(row["index"]): row["tokens"] for row in twice}
    assert all((by_index[int(row["index"])] == row["tokens"]).all() for row in twice)
    assert any((row["tokens"][0] != row["tokens"][1]).any() for row in twice)
