"""From a source to batches: order, workers and batches by Grain around data.stream.example.

The training stream is a function of (seed, step) alone, never of the number of workers or
processes, so a run goes on from its step on any number of either. Hence the order of the
operations: all that is random comes before all that is sliced, each with a seed.
"""

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grain
import numpy as np

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream.example import (
    DECODING,
    REASONS,
    Batch,
    Collate,
    Example,
    PictureBatch,
    Views,
    collate_pictures,
    unpack,
)
from cleanclip_jax.data.stream.feeder import Stream
from cleanclip_jax.data.stream.workers import Lease, batches_of
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.record import Source
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.geometry import GEOMETRY

__all__ = [
    "Batch",
    "Batches",
    "PictureBatch",
    "Reading",
    "Views",
    "evaluation_batches",
    "every_picture",
    "train_batches",
]

log = logging.getLogger(__name__)

Item = TypeVar("Item")

# Called with each unreadable record once: its index, its place in words, and what is wrong with it.
OnBad: TypeAlias = Callable[[int, str, str], None]

# Pairs in a stream: a century at a million a second. Grain's endless length overflows in
# batches of one.
ENDLESS = 2**52


@dataclass(frozen=True)
class Reading:
    """How records are read, and in what batches.

    Attributes:
      batch_size: global; a process of several gets batch_size / count rows of a training batch.
      workers: processes that make batches; 0: the thread that keeps batches ready does.
      timeout: seconds without a batch after which the stream raises.
      max_bad_share: share of the source that may be unreadable, as far as this process meets it.
      decode: 'exact', pixels as the original's; or 'fast' (data.stream.example.Example).
      captions: whether a record without a caption is unreadable; False for labelled pictures.
      on_bad: called, in the stream's thread, with each unreadable record that is met: its index,
        its place ("pairs.csv row 17") and the reason, in one line each. An error that it raises
        ends the stream.
    """

    batch_size: int
    workers: int = 0
    timeout: float = 120.0
    max_bad_share: float = 0.0
    decode: str = "exact"
    captions: bool = True
    on_bad: OnBad | None = None

    def __post_init__(self):
        if self.decode not in DECODING:
            raise unknown("data.decode", self.decode, DECODING)


def train_batches(
    source: Source,
    tokenizer: Tokenizer,
    reading: Reading,
    *,
    image_size: int,
    seed: int,
    plan: Plan | None = None,
    views: Views | None = None,
    step: int = 0,
    process: tuple[int, int] = (0, 1),
    unreadable: Set[int] | None = None,
) -> "Batches[Batch]":
    """Batches without end, from `step` on: a context manager and an iterator.

    The whole source in a new order each epoch; a batch may span two epochs. For an unreadable
    record the next readable one stands in.

    Args:
      plan: what is poisoned, and how; made for this source or its whole, and for image_size.
      views: how the augmented view is made; None or all 'none': there is none (V = 1).
      step: the first batch's number: what a resumed run goes on with.
      process: this process's index and their count.
      unreadable: where all pictures lie on the device, the records that `every_picture` could not
        read: batches then come without pictures, and are otherwise the same.

    Raises:
      UserError: here on a plan of another dataset or size, or a batch that does not divide; from
        the stream on a stall, too many unreadable records, a poisoned picture that is not the
        planned one, and the like.
    """
    index, count = process
    if reading.batch_size < 1 or reading.batch_size % count:
        raise UserError(
            f"batch_size: {reading.batch_size} does not divide over {count} process(es); give a "
            "multiple."
        )
    allowed = int(reading.max_bad_share * len(source))
    # Two seeds and not one: Grain orders epoch e by seed + e, so that runs with neighbouring
    # seeds would see each other's epochs.
    order, draws = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    example = Example(
        source,
        image_size,
        _planned(plan, source, image_size),
        decoding=reading.decode,
        captions=reading.captions,
        views=views or Views(),
        seed=seed,
        reach=allowed,
        unreadable=unreadable,
    )
    dataset = (
        grain.MapDataset.range(len(source))
        .shuffle(order)
        .repeat(ENDLESS // len(source))
        .random_map(example.pair, seed=draws)
        .batch(reading.batch_size // count, batch_fn=Collate(tokenizer))[index::count][step:]
    )
    return Batches(dataset, reading, Unreadable(source, allowed, reading.on_bad))


def every_picture(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    reading: Reading,
    *,
    image_size: int,
    plan: Plan | None = None,
) -> "Batches[PictureBatch]":
    """The records' pictures at their final size, once and in order, for the device's memory.

    Pictures are as `train_batches` decodes them, poisoned ones too, and without any trigger.
    """
    example = Example(
        source,
        image_size,
        _planned(plan, source, image_size),
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
) -> "Batches[PictureBatch]":
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
    example = Example(source, image_size, _planned(plan, source, image_size), trigger, geometry)
    chosen = np.arange(len(source)) if indices is None else indices
    return _pictures(example, chosen, reading, Unreadable(source))


def _pictures(
    example: Example,
    indices: Sequence[int] | np.ndarray,
    reading: Reading,
    unreadable: "Unreadable",
) -> "Batches[PictureBatch]":
    records: Any = np.asarray(indices, np.int64)  # has a Sequence's methods
    dataset = (
        grain.MapDataset.source(records)
        .map(example.picture)
        .batch(reading.batch_size, batch_fn=partial(collate_pictures, example.image_size))
    )
    return Batches(dataset, reading, unreadable, example.source.labels())


class Unreadable(dict[int, str]):
    """What is wrong with each unreadable record that was met, by index.

    Args:
      allowed: how many there may be; None: any number.
    """

    def __init__(self, source: Source, allowed: int | None = None, on_bad: OnBad | None = None):
        super().__init__()
        self._source, self._allowed, self._on_bad = source, allowed, on_bad

    def note(self, reasons: dict[int, str]) -> None:
        """Adds records: each is logged once. Refuses more than are allowed."""
        for index, reason in reasons.items():
            if index in self:
                continue
            self[index] = reason
            log.warning("left out: %s", reason)
            if self._on_bad is not None:
                where = self._source.where(index)
                self._on_bad(index, where, reason.removeprefix(f"{where}: "))
        if self._allowed is not None and len(self) > self._allowed:
            raise UserError(
                f"{len(self)} unreadable records of {len(self._source)}, more than max_bad_share "
                f"allows; the last: {[*self.values()][-1]}"
            )


class Batches(Stream[Item]):
    """A stream of batches that knows which records it could not read.

    Attributes:
      unreadable: index → what is wrong with the record, of those met so far; each was logged.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        reading: Reading,
        unreadable: Unreadable,
        labels: np.ndarray | None = None,
    ):
        self.unreadable, lease, workers = unreadable, Lease(), reading.workers
        finish = partial(_finished, unreadable, labels)
        super().__init__(
            partial(batches_of, dataset, workers, lease, finish),
            timeout=reading.timeout,
            maker=f"{workers} worker{'s' * (workers > 1)}" if workers else "this process",
            on_stall=lease.end if workers else None,
        )


def _finished(
    unreadable: Unreadable, labels: np.ndarray | None, batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    unreadable.note(unpack(batch.pop(REASONS)))
    return batch if labels is None else {**batch, "label": labels[batch["index"]]}


def _planned(plan: Plan | None, source: Source, image_size: int) -> Plan | None:
    """The plan for this source and size; others are refused."""
    if plan is not None and plan.header["image_size"] != image_size:
        raise UserError(
            f"the poison plan is for pictures of {plan.header['image_size']} pixels, not "
            f"{image_size}; make one for this size."
        )
    return None if plan is None else plan.on(source)
