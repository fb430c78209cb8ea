"""Pairs that are not cleaned on: suspected poisons, and those that are held out to measure on."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64
from ml_collections import ConfigDict
from PIL import Image

from cleanclip_jax.cleaning.canaries import LEAST_PICTURES, class_in, frequent_words
from cleanclip_jax.data.scores import lowest, read_scores
from cleanclip_jax.data.subset import read_ids, write_ids
from cleanclip_jax.detect.findings import DETECT, SCORES
from cleanclip_jax.detect.opened import open_scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.measure.features import Shown, batches_of, reading_of
from cleanclip_jax.record import Source
from cleanclip_jax.report.pair_scan import scan_pairs
from cleanclip_jax.start.start import Start

# Poisons with template captions stand out to k-dist, those with natural ones to SLOF alone
# (docs/clean.md).
LOOKED_BY, NEIGHBOURS = ("slof", "kdist", "clip_high"), 16
DROPPED_BY, ASIDE = ("slof", "kdist"), "aside.csv"


def suspected(
    folder: Path,
    start: Start,
    config: ConfigDict,
    data: Mapping[str, Any],
    share: float,
    source: Source,
) -> Int64[np.ndarray, " n"]:
    """The ids of the pairs that are most suspicious to the model: half of a share by each detector.

    Args:
      folder: takes what the detectors say; what is there is not made again.
      share: of all pairs, to be set aside at most: some are suspicious to both.
    """
    if not (folder / DETECT).is_file():
        settings = Settings(LOOKED_BY, min(NEIGHBOURS, max(2, len(source) // 8)))
        opened = open_scan(start, config, settings, dict(data))
        scan_pairs(folder, opened, settings, LOOKED_BY[0], share)
    if not (folder / ASIDE).is_file():
        marked = np.zeros(len(source), bool)
        for name in DROPPED_BY:
            scores = read_scores(folder / SCORES / f"{name}.parquet", source)
            marked |= lowest(-scores, share / len(DROPPED_BY))
        write_ids(folder / ASIDE, source.ids()[marked], source.root().fingerprint)
    return read_ids(folder / ASIDE, source)


def write_held(
    path: Path, config: ConfigDict, source: Source, rows: Int64[np.ndarray, " n"]
) -> None:
    """Writes pairs as parquet, pictures at the model's size; those of one frequent word have it
    as their class, which stands in where nobody labels pictures.
    """
    words = frequent_words(map(source.caption, range(len(source))))
    images, captions = [], []
    with batches_of(Shown(source, rows), config.model.image_size, reading_of(config)) as batches:
        for batch in batches:
            images += map(_png, batch["images"])
            captions += [source.caption(int(index)) for index in batch["index"]]
    if len(images) < LEAST_PICTURES:
        raise UserError(f"--data: of {len(rows)} pictures {len(images)} can be read")
    names = [class_in(caption, words) for caption in captions]
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": images, "caption": captions, "class_name": names}), stream)
    write_whole(path, stream.getvalue().to_pybytes())


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
