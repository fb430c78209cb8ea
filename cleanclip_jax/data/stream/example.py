"""One pair's way on the host: record, geometry, trigger, views."""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from cleanclip_jax.config_keys import KEYS
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import BadRecord, decode
from cleanclip_jax.views.geometry import FAST_GEOMETRY, GEOMETRY, resize_crop

if TYPE_CHECKING:
    from cleanclip_jax.attacks.pairs import Poison
    from cleanclip_jax.attacks.plan import Plan
    from cleanclip_jax.attacks.triggers import Stamp, Trigger
    from cleanclip_jax.views.eda import Synonyms
else:  # a run that is not poisoned, or has no views, loads none of them
    Plan = Poison = Stamp = Synonyms = Trigger = Any

DECODING = ("exact", "fast")
REASONS = "reasons"  # a batch's key, of what `pack` makes; it ends in the feeder


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


@dataclass(frozen=True)
class Views:
    """How a pair's augmented view is made (arXiv 2303.03323, section 4).

    Attributes:
      image, text, strength: as config.views has them.
      synonyms: what EDA replaces words by; None: its other three operations.
      per: 'epoch', a new augmented caption each epoch, or 'once', as the original draws captions
        at load. Pictures change each epoch.
      on: 'host', or 'device': triggers and augmented pictures are made in the training step, from
        pictures of their final size (run.views). Captions are made on the host either way.
      first: 'none', or 'strong': the pair itself is a strong view of the picture (views.strong)
        and its caption by EDA.
      crop: the least share of a picture that a strong view shows.
    """

    image: str = "none"
    text: str = "none"
    synonyms: Synonyms | None = None
    strength: float = 0.1
    per: str = "epoch"
    on: str = "host"
    first: str = "none"
    crop: float = 0.08

    def __post_init__(self):
        for key in ("image", "text", "per", "on", "first", "crop"):
            KEYS[f"views.{key}"].read(f"config.views.{key}", getattr(self, key))

    @property
    def any(self) -> bool:
        """Whether there is a second view at all."""
        return self.image != "none" or self.text != "none"


def pack(reasons: Mapping[int, str]) -> UInt8[np.ndarray, " n"]:
    """Reasons by record, as an array: Grain carries nothing else."""
    return np.frombuffer(json.dumps(dict(reasons)).encode(), np.uint8)


def unpack(packed: UInt8[np.ndarray, " n"]) -> dict[int, str]:
    """What `pack` packed."""
    return {int(index): reason for index, reason in json.loads(packed.tobytes()).items()}


class UnreadableStretch(UserError):
    """More records in a row that can't be read than there may be in all: reasons by record."""

    def __init__(self, reasons: Mapping[int, str]):
        super().__init__(
            f"{len(reasons)} unreadable records in a row, more than config.data.max_bad_share "
            f"allows; the last: {[*reasons.values()][-1]}"
        )
        self.reasons = dict(reasons)

    def __reduce__(self):
        return type(self), (self.reasons,)


def planned(plan: Plan | None, source: Source, image_size: int) -> Plan | None:
    """The plan for this source and size; others are refused."""
    if plan is not None and plan.header["image_size"] != image_size:
        raise UserError(
            f"the poison plan is for pictures of {plan.header['image_size']} pixels, not "
            f"{image_size}; make one for this size."
        )
    return None if plan is None else plan.on(source)


@dataclass(frozen=True)
class Read:
    """A record as it was read: its picture at its final size, without a trigger; what its view is
    made of, where that is another; and how its trigger is applied, where it has one."""

    image: UInt8[np.ndarray, "s s 3"]
    whole: Image.Image | None
    stamp: Stamp | None
    part: int = 0  # of the plan


@dataclass(frozen=True)
class Example:
    """Index → what a model is shown of the record. Runs in Grain's workers.

    Attributes:
      plan: poisons the pairs that it names; made for this source and size.
      trigger: put on every picture, with the place and noise of its seed and the picture's index.
      geometry: 'crop' or 'squash', of pictures that the plan does not poison.
      decoding: 'exact', pixels as the original's; or 'fast', large JPEGs reduced as they are
        decoded, resized by OpenCV, and augmented at their final size.
      captions: whether a pair without a caption is unreadable.
      seed: draws the captions that are augmented once.
      reach: how many unreadable records in a row are stepped over.
      unreadable: where all pictures lie on the device, the records that could not be read; then
        no picture is read here. None: they are read.
    """

    source: Source
    image_size: int
    plan: Plan | None = None
    trigger: Trigger | None = None
    geometry: str = "crop"
    decoding: str = "exact"
    captions: bool = False
    views: Views = Views()
    seed: int = 0
    reach: int = 0
    unreadable: Set[int] | None = None

    def pair(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A pair to train on, but for the tokens; the next one stands in for one unreadable."""
        made: dict[str, Any] = {}
        if self.unreadable is None:
            shown, read, reason = self._readable(index)
        else:
            shown, read, reason = self._stands_in(index, self.unreadable)
        poison = self._poison(shown)
        stamp, caption = (None, self._drawn(shown, rng)) if poison is None else poison[:2]
        if read is not None:
            made["images"] = self._views(read, rng)
        captions = [caption, self._reword(caption, shown, rng)] if self.views.any else [caption]
        if self.views.first == "strong":
            captions[0] = self._eda(caption, rng, shown, 1)
        if self.views.on == "device" and self.plan is not None:
            from cleanclip_jax.attacks.triggers import fold

            made["stamp"] = fold(stamp, 0 if poison is None else poison.part)
        bad = -1 if shown == index else index
        return {**made, "captions": captions, "index": shown, "bad": bad, "reason": reason}

    def read(self, index: int) -> Read:
        """Raises BadRecord where a record cannot be read.

        AutoAugment sees the whole picture, and geometry follows, as in the original; or else, where
        decoding is fast or the pair is poisoned, what geometry has made.
        """
        record = self.source[index]
        if self.captions and not record.caption.strip():
            raise BadRecord(f"{record.where}: the caption is empty.")
        if (poison := self._poison(index)) is not None:
            record = poison.shown(self.source, index)
        exact = self.decoding == "exact"
        pixels = decode(record.image, record.where, None if exact else self.image_size)
        shapes = GEOMETRY if exact else FAST_GEOMETRY
        if poison is not None and self.plan is not None:
            poison.check(record.image, record.where)
            # Trigger after crop (docs/fidelity.md). The plan's place is in pixels of this picture,
            # so its view is made of it, too, as the original does, which saves it at this size.
            image = shapes[self.plan.geometry](pixels, self.image_size)
            return Read(image, None, poison.stamp, poison.part)
        whole: Any = Image.fromarray(pixels) if exact else None
        image = shapes[self.geometry](pixels if whole is None else whole, self.image_size)
        stamp = None if self.trigger is None else self.trigger.stamp(self.image_size, index)
        return Read(image, whole, stamp)

    def _poison(self, index: int) -> Poison | None:
        return None if self.plan is None else self.plan.poison_at(index)

    def stamped(self, read: Read) -> np.ndarray:
        if read.stamp is None or self.views.on == "device":
            return read.image
        if self.plan is not None:
            return self.plan.put_on(read.image, read.stamp, read.part)
        return read.image if self.trigger is None else self.trigger.apply(read.image, read.stamp)

    def _views(self, read: Read, rng: np.random.Generator) -> list[np.ndarray]:
        """A pair's picture and, where it is made here, its view."""
        image, views = self.stamped(read), self.views
        if views.on == "device" or (views.first == "none" and not views.any):
            return [image]
        before = Image.fromarray(image) if read.whole is None else read.whole
        if views.first == "strong":
            image = self._strong(before, rng)
        if not views.any:
            return [image]
        if views.image == "none":
            return [image, image]
        if views.image == "strong":
            return [image, self._strong(before, rng)]
        from cleanclip_jax.views.autoaugment import autoaugment

        after = autoaugment(before, rng)
        if after is before:
            return [image, image]
        view = np.array(after) if read.whole is None else resize_crop(after, self.image_size)
        return [image, view]

    def _strong(self, before: Image.Image, rng: np.random.Generator) -> np.ndarray:
        from cleanclip_jax.views.strong import strong

        return strong(before, self.image_size, rng, self.views.crop)

    def _reword(self, caption: str, index: int, rng: np.random.Generator) -> str:
        return caption if self.views.text == "none" else self._eda(caption, rng, index)

    def _eda(self, caption: str, rng: np.random.Generator, *once: int) -> str:
        """A caption by EDA; where that is drawn once, by the seed and these numbers."""
        from cleanclip_jax.views.eda import eda

        if self.views.per == "once":
            rng = np.random.default_rng([self.seed, *once])
        return eda(caption, rng, self.views.synonyms, self.views.strength)

    def _drawn(self, index: int, rng: np.random.Generator) -> str:
        """A record's caption; of several one for each (seed, epoch, record), as all draws are."""
        several = self.source.all_captions(index)
        return several[0 if len(several) == 1 else int(rng.integers(len(several)))]

    def _readable(self, index: int) -> tuple[int, Read, str]:
        """The first readable pair from `index` on: a rule that needs no draw and no state.

        With it comes what is wrong with `index` itself, "" where nothing is.
        """
        reasons: dict[int, str] = {}
        for step in range(self.reach + 1):
            shown = (index + step) % len(self.source)
            try:
                return shown, self.read(shown), reasons.get(index, "")
            except BadRecord as error:
                reasons[shown] = str(error)
        raise UnreadableStretch(reasons)

    def _stands_in(self, index: int, unreadable: Set[int]) -> tuple[int, None, str]:
        """As `_readable`, of records that were read before; some can be."""
        shown = index
        while shown in unreadable:
            shown = (shown + 1) % len(self.source)
        reason = f"{self.source.where(index)}: it could not be read when all pictures were."
        return shown, None, "" if shown == index else reason


@dataclass(frozen=True)
class Collate:
    """Pairs → Batch: one call of the tokenizer for the whole batch."""

    tokenizer: Tokenizer

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        tokens = self.tokenizer([text for pair in pairs for text in pair["captions"]])
        batch = {
            "tokens": tokens.reshape(len(pairs), -1, tokens.shape[-1]),
            "index": np.array([pair["index"] for pair in pairs], np.int64),
            "bad": np.array([pair["bad"] for pair in pairs], np.int64),
            REASONS: pack({pair["bad"]: pair["reason"] for pair in pairs if pair["reason"]}),
        }
        if "images" in pairs[0]:
            images = np.stack([image for pair in pairs for image in pair["images"]])
            batch["images"] = images.reshape(len(pairs), -1, *images.shape[1:])
        if "stamp" in pairs[0]:
            batch["stamps"] = np.stack([pair["stamp"] for pair in pairs])
        return batch
