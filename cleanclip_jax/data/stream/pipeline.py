"""From a source to batches: order, workers and batches by Grain around data.examples.

The training stream is a function of (seed, step) alone, never of the number of workers or
processes, so a run goes on from its step on any number of either. Hence the order of the
operations: all that is random comes before all that is sliced, each with its own seed.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grain
import numpy as np
from jaxtyping import Int64

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream.example import (
    DECODING,
    Batch,
    Collate,
    EvaluationBatch,
    EvaluationExamples,
    PlainExamples,
    TrainExamples,
    Views,
    collate_pictures,
    read_picture,
    read_record,
)
from cleanclip_jax.data.stream.feeder import Stream
from cleanclip_jax.data.stream.workers import Lease, batches_of
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.record import Source
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import BadRecord
from cleanclip_jax.views.geometry import GEOMETRY

__all__ = [
    "Batch",
    "Batches",
    "EvaluationBatch",
    "Views",
    "evaluation_batches",
    "every_picture",
    "train_batches",
]

log = logging.getLogger(__name__)

Item = TypeVar("Item")

# Told of each unreadable record once: its index, its place in words, and what is wrong with it.
OnBad: TypeAlias = Callable[[int, str, str], None]

# Pairs in a stream: a century at a million a second. Grain's own endless length overflows in
# batches of one.
ENDLESS = 2**52


def train_batches(
    source: Source,
    tokenizer: Tokenizer,
    *,
    plan: Plan | None = None,
    views: Views | None = None,
    image_size: int,
    batch_size: int,
    seed: int,
    step: int = 0,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    timeout: float = 120.0,
    max_bad_share: float = 0.01,
    decode: str = "exact",
    captions: bool = True,
    on_bad: OnBad | None = None,
    unreadable: Set[int] | None = None,
) -> "Batches[Batch]":
    """Batches without end, from `step` on: a context manager and an iterator.

    The whole source in a new order each epoch; a batch may span two epochs.

    Args:
      plan: what is poisoned, and how; made for this source and image_size.
      views: how the augmented view is made; None or all 'none': there is none (V = 1).
      batch_size: global; this process gets batch_size / count rows of each batch.
      step: the first batch's number: what a resumed run goes on with.
      process: this process's index and their count.
      workers: processes that make batches; 0: the thread that keeps batches ready does.
      timeout: seconds without a batch after which the stream raises.
      max_bad_share: share of the source that may be unreadable, as far as this process meets
        it; for each such record the next readable one stands in.
      decode: 'exact', pixels as the original's; or 'fast' (data.examples.TrainExamples).
      captions: whether a record without a caption is unreadable; False for labelled pictures.
      on_bad: called, in the stream's thread, with each unreadable record that is met: its index,
        its place ("pairs.csv row 17") and the reason, in one line each. An error that it raises
        ends the stream.
      unreadable: where all pictures lie on the device, the records that `every_picture` could not
        read: batches then come without pictures, and are otherwise the same.

    Raises:
      UserError: here on an unknown `decode`, a plan of another dataset or size, or a batch that
        does not divide; from the stream on a stall, too many unreadable records, a poisoned
        picture that is not the planned one, and the like.
    """
    views = views or Views()
    index, count = process
    if batch_size < 1 or batch_size % count:
        raise UserError(
            f"batch_size: {batch_size} does not divide over {count} process(es); give a multiple."
        )
    _check(plan, source, image_size, decode)
    allowed = int(max_bad_share * len(source))
    # Two seeds and not one: Grain orders epoch e by seed + e, so that runs with neighbouring
    # seeds would see each other's epochs.
    order, draws = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    example = TrainExamples(
        source, plan, views, image_size, seed, allowed, decode, captions, unreadable
    )
    dataset = (
        grain.MapDataset.range(len(source))
        .shuffle(order)
        .repeat(ENDLESS // len(source))
        .random_map(example, seed=draws)
        .batch(batch_size // count, batch_fn=Collate(tokenizer))[index::count][step:]
    )
    rule = _Share(source, captions, allowed, on_bad)
    return Batches(dataset, partial(_within_share, rule), workers=workers, timeout=timeout)


def every_picture(
    source: Source,
    indices: Int64[np.ndarray, " n"],
    *,
    plan: Plan | None = None,
    image_size: int,
    batch_size: int,
    workers: int = 0,
    timeout: float = 120.0,
    max_bad_share: float = 0.01,
    decode: str = "exact",
    captions: bool = True,
    on_bad: OnBad | None = None,
) -> "Batches[tuple[np.ndarray, np.ndarray]]":
    """The records' pictures at their final size, once, for the device's memory.

    A batch is (their positions among `indices` [b], pictures uint8 [b, s, s, 3]), in order and
    without those that can't be read: `Batches.unreadable` has them. Arguments and
    errors are those of `train_batches`.
    """
    _check(plan, source, image_size, decode)
    allowed = int(max_bad_share * len(source))
    example = TrainExamples(source, plan, Views(), image_size, 0, 0, decode, captions)
    dataset = (
        grain.MapDataset.range(len(indices))
        .map(PlainExamples(example, indices))
        .batch(batch_size, batch_fn=partial(collate_pictures, image_size))
    )
    check = partial(_positions, indices, _Share(source, captions, allowed, on_bad))
    return Batches(dataset, check, workers=workers, timeout=timeout)


def evaluation_batches(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    trigger: Trigger | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    geometry: str = "crop",
    workers: int = 0,
    timeout: float = 120.0,
) -> "Batches[EvaluationBatch]":
    """The source's pictures in order, once; the last batch may be smaller.

    Decoded exactly, whatever training does: figures are to be held against others', and those of
    models trained in either mode against each other.

    Args:
      trigger: put on every picture, with the place and noise that its seed and the picture's
        index give (fidelity row 9).
      indices: which pictures; all if None.
      geometry: 'crop', or 'squash' (fidelity row 7), with or without a trigger.
      workers, timeout: as in train_batches.
    """
    if geometry not in GEOMETRY:
        raise UserError(
            f"geometry: unknown {geometry!r}, use 'crop' or 'squash'." + near(geometry, GEOMETRY)
        )
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    example = EvaluationExamples(source, chosen, image_size, trigger, geometry)
    dataset = (
        grain.MapDataset.range(len(chosen))
        .map(example)
        .batch(batch_size, batch_fn=partial(collate_pictures, image_size))
    )
    check = partial(_filled_up, source, batch_size)
    return Batches(dataset, check, workers=workers, timeout=timeout)


class Batches(Stream[Item]):
    """A stream of batches that knows which records it could not read.

    Attributes:
      unreadable: index → what is wrong with the record, of those met so far; each was logged.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        check: Callable[[Iterator[Any], dict[int, str]], Iterator[Item]],
        *,
        workers: int,
        timeout: float,
    ):
        self.unreadable: dict[int, str] = {}
        lease = Lease()
        super().__init__(
            partial(_checked, partial(batches_of, dataset, workers, lease), check, self.unreadable),
            timeout=timeout,
            maker=f"{workers} worker{'s' * (workers > 1)}" if workers else "this process",
            on_stall=lease.end if workers else None,
        )


def _checked(
    open: Callable[[], Iterator[Any]],
    check: Callable[[Iterator[Any], dict[int, str]], Iterator[Item]],
    unreadable: dict[int, str],
) -> Iterator[Item]:
    with contextlib.closing(open()) as batches:  # pyright: ignore[reportArgumentType]
        yield from check(batches, unreadable)


@dataclass(frozen=True)
class _Share:
    """How many records a training run may find unreadable, and who is told of each."""

    source: Source
    captions: bool
    allowed: int
    on_bad: OnBad | None

    def note(self, found: np.ndarray, unreadable: dict[int, str]) -> None:
        """Adds records to the unreadable ones; refuses more than are allowed."""
        read = partial(read_record, self.source, captions=self.captions)
        for index in found.tolist():
            if index not in unreadable:
                _note(unreadable, read, index)
                if self.on_bad is not None:
                    where = self.source.where(index)
                    self.on_bad(index, where, unreadable[index].removeprefix(f"{where}: "))
        if len(unreadable) > self.allowed:
            raise UserError(
                f"{len(unreadable)} unreadable records of {len(self.source)}, more than "
                f"max_bad_share allows; the last: {list(unreadable.values())[-1]}"
            )


def _within_share(
    rule: _Share, batches: Iterator[Batch], unreadable: dict[int, str]
) -> Iterator[Batch]:
    for batch in batches:
        rule.note(batch["bad"][batch["bad"] >= 0], unreadable)
        yield batch


def _positions(
    indices: Int64[np.ndarray, " n"],
    rule: _Share,
    batches: Iterator[dict[str, np.ndarray]],
    unreadable: dict[int, str],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures with their places; those of unreadable records are left out."""
    done = 0
    for batch in batches:
        rule.note(batch["bad"], unreadable)
        count = len(batch["index"]) + len(batch["bad"])
        shown = ~np.isin(indices[done : done + count], batch["bad"])
        yield done + np.flatnonzero(shown), batch["images"]
        done += count


def _filled_up(
    source: Source,
    size: int,
    batches: Iterator[dict[str, np.ndarray]],
    unreadable: dict[int, str],
) -> Iterator[EvaluationBatch]:
    """Evaluation batches, without gaps where pictures were left out: their size is compiled for."""
    labels = source.labels()
    images, index = [], []
    for batch in batches:
        for bad in batch["bad"].tolist():
            _note(unreadable, partial(read_picture, source), bad)
        images.extend(batch["images"])
        index.extend(batch["index"].tolist())
        if len(index) >= size:
            yield _pictures(images[:size], index[:size], labels)
            images, index = images[size:], index[size:]
    if index:
        yield _pictures(images, index, labels)


def _pictures(
    images: list[np.ndarray], index: list[int], labels: Int64[np.ndarray, " n"]
) -> EvaluationBatch:
    return {"images": np.stack(images), "index": np.array(index), "label": labels[index]}


def _note(unreadable: dict[int, str], read: Callable[[int], object], index: int) -> None:
    """Reads a bad record once more, here, for its message: batches carry numbers only."""
    try:
        read(index)
        unreadable[index] = f"record {index}: unreadable at first, readable now."
    except BadRecord as error:
        unreadable[index] = str(error)
    log.warning("left out: %s", unreadable[index])


def _check(plan: Plan | None, source: Source, image_size: int, decode: str) -> None:
    if decode not in DECODING:
        raise UserError(
            f"data.decode: unknown {decode!r}, use 'exact' or 'fast'." + near(decode, DECODING)
        )
    if plan is None:
        return
    if plan.header["fingerprint"] != source.fingerprint:
        raise UserError("the poison plan is of another dataset; make one for this source.")
    if plan.header["image_size"] != image_size:
        raise UserError(
            f"the poison plan is for pictures of {plan.header['image_size']} pixels, not "
            f"{image_size}; make one for this size."
        )
