"""Small pictures on disk, and a cache of their own for the tests."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CLEANCLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def picture() -> Callable[[int], np.ndarray]:
    """Gives picture `i`: noise, uint8 [20, 28, 3], another for each i."""
    return lambda i: np.random.default_rng(i).integers(256, size=(20, 28, 3), dtype=np.uint8)


@pytest.fixture
def png(picture: Callable[[int], np.ndarray]) -> Callable[[int], bytes]:
    """Gives picture `i` as the bytes of a PNG file."""

    def encode(i: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(picture(i)).save(stream, "png")
        return stream.getvalue()

    return encode


@pytest.fixture
def write_csv(tmp_path: Path, png: Callable[[int], bytes]) -> Callable[..., Path]:
    """Writes a CSV (or, named so, TSV) of so many pairs, and the pictures beside it.

    Caption i has four words of its own; the class alternates. Rows in `missing` have no file,
    those in `broken` a file cut short, those in `silent` no caption.
    """

    def write(
        count: int,
        name: str = "pairs.csv",
        missing: Sequence[int] = (),
        broken: Sequence[int] = (),
        silent: Sequence[int] = (),
    ) -> Path:
        folder = tmp_path / Path(name).stem
        folder.mkdir(exist_ok=True)
        rows = []
        for i in range(count):
            if i not in missing:
                data = png(i)
                (folder / f"{i}.png").write_bytes(data[:200] if i in broken else data)
            caption = "" if i in silent else f"one{i} two{i} three{i} four{i}"
            rows.append((f"{i}.png", caption, ("cat", "dog")[i % 2], "train" if i < 8 else "test"))
        with (folder / name).open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if name.endswith("tsv") else ",")
            writer.writerow(("image", "caption", "animal", "split"))
            writer.writerows(rows)
        return folder / name

    return write
