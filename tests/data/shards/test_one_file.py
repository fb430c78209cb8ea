"""A small source as one parquet file."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.views.decode import decode


@pytest.fixture
def pairs(tmp_path):
    """Two pictures, large and small, and a file that is none."""
    rng = np.random.default_rng(0)
    for name, side in (("large", 64), ("small", 8)):
        pixels = np.kron(
            rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((side // 4,) * 2 + (1,))
        )
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    lines = [
        "image,caption,class_name",
        "large.png,a cat,cat",
        "small.png,a dog,",
        "broken.png,x,cat",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return {"kind": "csv", "path": str(tmp_path / "pairs.csv"), "class_name": "class_name"}


def prepare(source, path, *flags) -> int:
    return cli.main(["prepare", f"--source={source}", f"--output={path}", *flags])


def test_large_pictures_become_webp_and_small_ones_keep_their_bytes(pairs, tmp_path):
    path = tmp_path / "out.parquet"
    assert prepare(pairs, path, "--short_side=32", "--quality=90", "--max_bad_share=0.5") == 0
    table = pq.read_table(path).to_pylist()
    assert [row["caption"] for row in table] == ["a cat", "a dog"]
    assert [row["class_name"] for row in table] == ["cat", None]
    assert Image.open(io.BytesIO(table[0]["image"])).format == "WEBP"
    assert table[1]["image"] == (tmp_path / "small.png").read_bytes()
    source = open_source({"kind": "parquet", "path": str(path)})
    whole = Image.open(tmp_path / "large.png").resize((32, 32), Image.Resampling.BICUBIC)
    difference = decode(source[0].image, "").astype(int) - np.asarray(whole)
    assert np.abs(difference).mean() < 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_bad_share=0"], "more than 0 of 3 rows are unreadable"),
        (["--shards=2"], "is one file: it takes no shards"),
    ],
)
def test_what_cannot_be_leaves_no_file(pairs, tmp_path, capfd, flags, message):
    assert prepare(pairs, tmp_path / "out.parquet", *flags) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
