"""One pair's way on the host: record, geometry, trigger, views."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Stamp, Trigger, fold
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.record import Record, Source
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.autoaugment import autoaugment
from cleanclip_jax.views.decode import BadRecord, decode
from cleanclip_jax.views.eda import Synonyms, eda
from cleanclip_jax.views.geometry import (
    FAST_GEOMETRY,
    GEOMETRY,
    fast_resize_crop,
    resize_crop,
)

DECODING = ("exact", "fast")
CHOICES = {
    "image": ("none", "autoaugment"),
    "text": ("none", "eda"),
    "per": ("epoch", "once"),
    "on": ("host", "device"),
}


class Batch(TypedDict):
    """Training batch; V is 2 with views, [original, augmented], else 1.

    Attributes:
      images: where views are made on the device, one a pair, as they were before any trigger;
        where pictures lie on the device, batches have no such key.
      index: the record that each row shows.
      bad: the unreadable record that the row stands in for, -1 where it stands for itself.
      stamps: what the device needs to put a plan's trigger on (attacks.triggers.fold).
    """

    images: UInt8[np.ndarray, "b V s s 3"]
    tokens: Int32[np.ndarray, "b V L"]
    index: Int64[np.ndarray, " b"]
    bad: Int64[np.ndarray, " b"]
    stamps: NotRequired[Int32[np.ndarray, "b 4"]]


class EvaluationBatch(TypedDict):
    """Pictures to measure on; label is -1 where there is none."""

    images: UInt8[np.ndarray, "b s s 3"]
    index: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]


@dataclass(frozen=True)
class Views:
    """How a pair's augmented view is made (arXiv 2303.03323, section 4).

    Attributes:
      image: 'none' or 'autoaugment'.
      text: 'none' or 'eda'.
      synonyms: what EDA replaces words by; None: its other three operations.
      strength: share of the words that EDA changes.
      per: 'epoch', a new augmented caption each epoch, or 'once', the same throughout, as the
        original, which draws captions at load (fidelity row 11). Pictures change each epoch.
      on: 'host', or 'device': triggers and augmented pictures are made in the training step, from
        pictures of their final size (device.views). Captions are made on the host either way.
    """

    image: str = "none"
    text: str = "none"
    synonyms: Synonyms | None = None
    strength: float = 0.1
    per: str = "epoch"
    on: str = "host"

    def __post_init__(self):
        for key, options in CHOICES.items():
            if (value := getattr(self, key)) not in options:
                raise UserError(
                    f"views.{key}: unknown {value!r}, use {' or '.join(map(repr, options))}."
                    + near(str(value), options)
                )

    @property
    def any(self) -> bool:
        """Whether there is a second view at all."""
        return self.image != "none" or self.text != "none"


def read_picture(source: Source, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """A record's decoded picture; raises BadRecord where it cannot be read."""
    record = source[index]
    return decode(record.image, record.where)


def read_pair(source: Source, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """A decoded picture and its caption; raises BadRecord where either cannot be read."""
    record, picture = read_record(source, index)
    return picture, record.caption


def read_record(
    source: Source, index: int, captions: bool = True, enough: int | None = None
) -> tuple[Record, UInt8[np.ndarray, "h w 3"]]:
    """A record and its decoded picture; raises BadRecord where either cannot be read.

    Args:
      captions: whether an empty caption is one that cannot be read.
      enough: as in images.decode.
    """
    record = source[index]
    if captions and not record.caption.strip():
        raise BadRecord(f"{record.where}: the caption is empty.")
    return record, decode(record.image, record.where, enough)


@dataclass(frozen=True)
class TrainExamples:
    """Index → example, everything but the tokens. Runs in Grain's workers.

    Attributes:
      seed: draws the captions that are augmented once.
      reach: how many unreadable records in a row are stepped over.
      decoding: 'exact', pixels as the original's; or 'fast', large JPEGs reduced as they are
        decoded, resized by OpenCV, and augmented at their final size.
      captions: whether a pair without a caption is unreadable.
      unreadable: where all pictures lie on the device, the records that could not be read; then
        no picture is read here. None: they are read.
    """

    source: Source
    plan: Plan | None
    views: Views
    image_size: int
    seed: int
    reach: int
    decoding: str
    captions: bool = True
    unreadable: Set[int] | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> dict:
        made: dict[str, Any] = {}
        if self.unreadable is not None:
            shown = self._stands_in(index, self.unreadable)
            caption = self.source.caption(shown)
        else:
            shown, record, picture = self._readable(index)
            caption = record.caption
            made["images"] = self._images(shown, record, picture, rng)
        stamp, caption = self._stamp_at(shown) or (None, caption)
        captions = [caption]
        if self.views.any:
            captions.append(self._reword(caption, shown, rng))
        if self.views.on == "device" and self.plan is not None:
            made["stamp"] = fold(stamp)
        return {
            **made,
            "captions": captions,
            "index": shown,
            "bad": -1 if shown == index else index,
        }

    def plain(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """A record's picture at its final size, without trigger or view.

        Raises:
          BadRecord: the record can't be read.
          UserError: it is to be poisoned, and is not the picture that was planned.
        """
        return self._at_size(index, *self._read(index))[0]

    def _images(
        self, index: int, record: Record, picture: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """A pair's picture and, where it is made here, its view."""
        image, whole = self._at_size(index, record, picture)
        if self.views.on == "device":
            return [image]
        if (found := self._stamp_at(index)) is not None:
            assert self.plan is not None
            image = self.plan.trigger.apply(image, found[0])
        return [image, self._augment(image, whole, rng)] if self.views.any else [image]

    def _at_size(
        self, index: int, record: Record, picture: np.ndarray
    ) -> tuple[np.ndarray, Image.Image | None]:
        """A picture at its final size and, where a view is to be made of it, the whole one.

        AutoAugment sees the whole picture, and geometry follows, as in the original; or else what
        geometry has made, in a fraction of the time.
        """
        if self.plan is not None and self._stamp_at(index) is not None:
            self.plan.check(index, record.image, record.where)
            # Trigger after geometry, squashed only on request (fidelity row 7). The plan's place
            # is in pixels of this picture, so its view, too, is made from here on; the original,
            # which saves poisoned pictures at their final size, does the same.
            geometry = (GEOMETRY if self._exact else FAST_GEOMETRY)[self.plan.geometry]
            return geometry(picture, self.image_size), None
        if not self._exact:
            return fast_resize_crop(picture, self.image_size), None
        whole = Image.fromarray(picture)
        return resize_crop(whole, self.image_size), whole

    @property
    def _exact(self) -> bool:
        return self.decoding == "exact"

    def _stamp_at(self, index: int) -> tuple[Stamp, str] | None:
        return None if self.plan is None else self.plan.stamp_at(index)

    def _read(self, index: int) -> tuple[Record, np.ndarray]:
        enough = None if self._exact else self.image_size
        return read_record(self.source, index, self.captions, enough)

    def _readable(self, index: int) -> tuple[int, Record, np.ndarray]:
        """The first readable pair from `index` on: a rule that needs no draw and no state."""
        reason = None
        for step in range(self.reach + 1):
            shown = (index + step) % len(self.source)
            try:
                return shown, *self._read(shown)
            except BadRecord as error:
                reason = error
        raise UserError(
            f"{self.reach + 1} unreadable records in a row, more than max_bad_share allows; "
            f"the last: {reason}"
        )

    def _stands_in(self, index: int, unreadable: Set[int]) -> int:
        """As `_readable`, of records that were read before; some can be."""
        while index in unreadable:
            index = (index + 1) % len(self.source)
        return index

    def _augment(
        self, image: np.ndarray, whole: Image.Image | None, rng: np.random.Generator
    ) -> np.ndarray:
        if self.views.image == "none":
            return image
        before = Image.fromarray(image) if whole is None else whole
        after = autoaugment(before, rng)
        if after is before:
            return image
        return np.array(after) if whole is None else resize_crop(after, self.image_size)

    def _reword(self, caption: str, index: int, rng: np.random.Generator) -> str:
        if self.views.text == "none":
            return caption
        if self.views.per == "once":
            rng = np.random.default_rng([self.seed, index])
        return eda(caption, rng, self.views.synonyms, self.views.strength)


@dataclass(frozen=True)
class Collate:
    """Examples → Batch: one call of the tokenizer for the whole batch."""

    tokenizer: Tokenizer

    def __call__(self, examples: Sequence[dict]) -> Batch:
        tokens = self.tokenizer([text for e in examples for text in e["captions"]])
        batch: dict[str, np.ndarray] = {
            "tokens": tokens.reshape(len(examples), -1, tokens.shape[-1]),
            "index": np.array([e["index"] for e in examples], np.int64),
            "bad": np.array([e["bad"] for e in examples], np.int64),
        }
        if "images" in examples[0]:
            images = np.stack([image for e in examples for image in e["images"]])
            batch["images"] = images.reshape(len(examples), -1, *images.shape[1:])
        if "stamp" in examples[0]:
            batch["stamps"] = np.stack([e["stamp"] for e in examples])
        return cast(Batch, batch)


@dataclass(frozen=True)
class PlainExamples:
    """Position → (index, picture) for the device's memory; None where it is unreadable."""

    example: TrainExamples
    indices: Int64[np.ndarray, " n"]

    def __call__(self, position: int) -> tuple[int, np.ndarray | None]:
        index = int(self.indices[position])
        try:
            return index, self.example.plain(index)
        except BadRecord:
            return index, None


@dataclass(frozen=True)
class EvaluationExamples:
    """Position → (index, picture) for measuring; the picture is None where it is unreadable."""

    source: Source
    indices: Int64[np.ndarray, " n"]
    image_size: int
    trigger: Trigger | None
    geometry: str

    def __call__(self, position: int) -> tuple[int, np.ndarray | None]:
        index = int(self.indices[position])
        try:
            picture = read_picture(self.source, index)
        except BadRecord:
            return index, None
        image = GEOMETRY[self.geometry](picture, self.image_size)
        if self.trigger is not None:
            image = self.trigger.apply(image, self.trigger.stamp(self.image_size, index))
        return index, image


def collate_pictures(
    image_size: int, rows: Sequence[tuple[int, np.ndarray | None]]
) -> dict[str, np.ndarray]:
    """Readable pictures and their indices, and the indices of the unreadable."""
    images = [image for _, image in rows if image is not None]
    empty = np.empty((0, image_size, image_size, 3), np.uint8)
    return {
        "images": np.stack(images) if images else empty,
        "index": np.array([i for i, image in rows if image is not None], np.int64),
        "bad": np.array([i for i, image in rows if image is None], np.int64),
    }
