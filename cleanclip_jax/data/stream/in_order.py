"""Pictures in batches, once and in order: to be measured on, and for the device's memory."""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypedDict

import grain
import numpy as np
from jaxtyping import Int64, UInt8

from cleanclip_jax.data.stream.example import REASONS, Example, Plan, Trigger, pack, planned
from cleanclip_jax.data.stream.pipeline import Batches, Reading, Unreadable, Views
from cleanclip_jax.errors import unknown
from cleanclip_jax.record import Source
from cleanclip_jax.views.decode import BadRecord, decode
from cleanclip_jax.views.geometry import GEOMETRY


def read_pair(source: Source, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """A decoded picture and its caption; raises BadRecord where either cannot be read."""
    record = source[index]
    if not record.caption.strip():
        raise BadRecord(f"{record.where}: the caption is empty.")
    return decode(record.image, record.where), record.caption


def read_picture(source: Source, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """A record's decoded picture; raises BadRecord where it cannot be read."""
    record = source[index]
    return decode(record.image, record.where)


class PictureBatch(TypedDict):
    """Pictures, those of unreadable records left out; label is -1 where there is none."""

    images: UInt8[np.ndarray, "b s s 3"]
    index: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]


def every_picture(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    reading: Reading,
    *,
    image_size: int,
    plan: Plan | None = None,
) -> Batches[PictureBatch]:
    """The records' pictures at their final size, once and in order, for the device's memory.

    Pictures are as `train_batches` decodes them, poisoned ones too, and without any trigger.
    """
    example = Example(
        source,
        image_size,
        planned(plan, source, image_size),
        decoding=reading.decode,
        captions=reading.captions,
        views=Views(on="device"),
    )
    allowed = int(reading.max_bad_share * len(source))
    return _pictures(example, indices, reading, Unreadable(source, allowed, reading.on_bad))


def evaluation_batches(
    source: Source,
    reading: Reading,
    *,
    image_size: int,
    trigger: Trigger | None = None,
    plan: Plan | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    geometry: str = "crop",
) -> Batches[PictureBatch]:
    """The source's pictures in order, once; a batch is smaller by those that can't be read.

    Decoded exactly, whatever training does: figures are to be held against others', and those of
    models trained in either mode against each other. Empty captions and any number of unreadable
    records are let pass: `Batches.unreadable` has them.

    Args:
      trigger: put on every picture, with the place and noise that its seed and the picture's
        index give (docs/fidelity.md: seeded triggers).
      plan: in place of a trigger: pictures are shown as they are trained on, poisoned or clean.
      indices: which pictures; all if None.
      geometry: 'crop', or 'squash', with or without a trigger.
    """
    if geometry not in GEOMETRY:
        raise unknown("geometry", geometry, GEOMETRY)
    example = Example(source, image_size, planned(plan, source, image_size), trigger, geometry)
    chosen = np.arange(len(source)) if indices is None else indices
    return _pictures(example, chosen, reading, Unreadable(source))


def _pictures(
    example: Example,
    indices: Sequence[int] | np.ndarray,
    reading: Reading,
    unreadable: Unreadable,
) -> Batches[PictureBatch]:
    records: Any = np.asarray(indices, np.int64)  # has a Sequence's methods
    dataset = (
        grain.MapDataset.source(records)
        .map(partial(_picture, example))
        .batch(reading.batch_size, batch_fn=partial(_collate, example.image_size))
    )
    return Batches(dataset, reading, unreadable, example.source.labels())


def _picture(
    example: Example, index: int | np.integer
) -> tuple[int, UInt8[np.ndarray, "s s 3"] | None, str]:
    """A record's picture; None and the reason where it is unreadable."""
    try:
        return int(index), example.stamped(example.read(int(index))), ""
    except BadRecord as error:
        return int(index), None, str(error)


def _collate(
    image_size: int, rows: Sequence[tuple[int, np.ndarray | None, str]]
) -> dict[str, np.ndarray]:
    """Pictures → PictureBatch of those that could be read."""
    images = [image for _, image, _ in rows if image is not None]
    empty = np.empty((0, image_size, image_size, 3), np.uint8)
    return {
        "images": np.stack(images) if images else empty,
        "index": np.array([index for index, _, reason in rows if not reason], np.int64),
        REASONS: pack({index: reason for index, _, reason in rows if reason}),
    }
