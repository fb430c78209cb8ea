"""From a source to batches: order, workers and batches by Grain around data.stream.example.

The training stream is a function of (seed, step) and of a stage's records alone, never of the
number of workers or processes, so a run goes on from its step on any number of either. Hence the
order of the operations: all that is random comes before all that is sliced, each with a seed.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import grain
import numpy as np
from jaxtyping import Int64

from cleanclip_jax.data.stream.example import (
    DECODING,
    REASONS,
    Batch,
    Collate,
    Example,
    Plan,
    UnreadableStretch,
    Views,
    planned,
    unpack,
)
from cleanclip_jax.data.stream.feeder import Stream
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.record import Source
from cleanclip_jax.text.tokenizer import Tokenizer

__all__ = ["Batch", "Batches", "Reading", "Unreadable", "Views", "train_batches"]

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
    stage: tuple[int, Int64[np.ndarray, " n"]] | None = None,
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
      stage: its first step, which `step` counts from, and its records in their order, in place of
        the whole source: the stream ends with them.

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
        planned(plan, source, image_size),
        decoding=reading.decode,
        captions=reading.captions,
        views=views or Views(),
        seed=seed,
        reach=allowed,
        unreadable=unreadable,
    )
    if stage is None:
        records = grain.MapDataset.range(len(source)).shuffle(order)
        records = records.repeat(ENDLESS // len(source))
    else:
        first, rows = stage[0], cast(Any, stage[1])  # an array has a Sequence's methods
        draws = int(np.random.SeedSequence([seed, first]).generate_state(1)[0])
        records = grain.MapDataset.source(rows).map(int)
    dataset = records.random_map(example.pair, seed=draws).batch(
        reading.batch_size // count, batch_fn=Collate(tokenizer)
    )[index::count][step:]
    return Batches(dataset, reading, Unreadable(source, allowed, reading.on_bad))


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
                f"{len(self)} unreadable records of {len(self._source)}, more than "
                f"config.data.max_bad_share allows; the last: {[*self.values()][-1]}"
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
        self.unreadable, workers = unreadable, reading.workers
        # No threads of Grain's: its 16 would read 500 batches ahead.
        made = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        batches, end, maker = partial(iter, made), None, "this process"
        if workers:
            from cleanclip_jax.data.stream.workers import Lease  # few runs have any

            lease = Lease()
            batches, end = partial(lease.batches_of, made, workers), lease.end
            maker = f"{workers} worker{'s' * (workers > 1)}"
        noted = partial(_noted, batches, unreadable, labels)
        super().__init__(noted, timeout=reading.timeout, maker=maker, on_stall=end)


def _noted(
    batches: Callable[[], Any], unreadable: Unreadable, labels: np.ndarray | None
) -> Iterator[Any]:
    """Batches, whose unreadable records are noted."""
    with contextlib.closing(batches()) as made:
        try:
            for batch in made:
                unreadable.note(unpack(batch.pop(REASONS)))
                yield batch if labels is None else {**batch, "label": labels[batch["index"]]}
        except UnreadableStretch as error:
            unreadable.note(error.reasons)
            raise
