"""Whatever people's datasets hold is trained on, or counted and named."""

import csv
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from helpers.odd_pictures import bad, good
from helpers.streams import stream_of

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import decode
from cleanclip_jax.views.eda import eda
from cleanclip_jax.views.geometry import resize_crop

SIDE = 16
CAPTIONS = {
    "letterless": "!!! 123 ...",
    "long": "word " * 2_000,
    "one long word": "a" + "!" * 9_998 + "b",
    "control": "a\x07 bell, \x1b[31mred\x1b[0m and \x7f",
    "other alphabets": "красная собака 犬 🐕",
    "escaped twice": "cats &amp;amp; dogs",
}
EMPTY = {"empty": "", "blank": " \t "}

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Source, dict[str, int]]:
    """A set of every odd picture and caption, and each one's index by name."""
    rows, plain = [], good()["a plain jpeg"]
    for name, data in (good() | bad()).items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
        rows.append((f"{name}.jpg", name))
    for name, caption in (CAPTIONS | EMPTY).items():
        (tmp_path / f"{name}.jpg").write_bytes(plain)
        rows.append((f"{name}.jpg", caption))
    with (tmp_path / "odd.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "caption"), *rows])
    source = open_source({"kind": "csv", "path": str(tmp_path / "odd.csv")})
    return source, {Path(image).stem: i for i, (image, _) in enumerate(rows)}


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_an_epoch_of_them_is_trained_through(
    odd: tuple[Source, dict[str, int]], mode: str, capfd: pytest.CaptureFixture
):
    source, places = odd
    tokenizer, noted = Tokenizer.train(["a few words"], 300, 16), {}
    with stream_of(
        source,
        tokenizer,
        views=Views("autoaugment", "eda"),
        image_size=SIDE,
        batch_size=1,
        seed=0,
        max_bad_share=0.9,
        decode=mode,
        on_bad=lambda index, where, reason: noted.update({index: (where, reason)}),
    ) as stream:
        batches = list(islice(stream, len(source)))
    expected = {places[name] for name in (*bad(), *EMPTY)}
    assert set(noted) == expected
    for index, (where, reason) in noted.items():
        assert where == source.where(index) and reason and "\n" not in reason
    read = [batch for batch in batches if batch["bad"][0] < 0]
    assert {int(batch["index"][0]) for batch in read} == set(places.values()) - expected
    for batch in read:
        index = int(batch["index"][0])
        assert (batch["tokens"][0, 0] == tokenizer([source.caption(index)])[0]).all()
        if mode == "exact":
            image = resize_crop(decode(source[index].image, ""), SIDE)
            np.testing.assert_array_equal(batch["images"][0, 0], image)
    # The log says each; the libraries below say nothing of their own.
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("caption", CAPTIONS.values(), ids=list(CAPTIONS))
def test_no_caption_takes_its_time(caption: str):
    tokenizer, rng = Tokenizer.train(["a few words"], 300, 77), np.random.default_rng(0)
    began = time.process_time()
    for _ in range(5):
        tokenizer([caption, eda(caption, rng, None)])
    assert (time.process_time() - began) / 5 < 0.1
