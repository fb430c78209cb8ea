"""A plan's pairs: those that name the target and can be read, and how each is poisoned."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from cleanclip_jax.attacks.trigger_files import digest
from cleanclip_jax.attacks.triggers import Stamp
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Record, Source
from cleanclip_jax.views.decode import BadRecord, decode

log = getLogger(__name__)

THREADS = 8  # that read pictures: a store far away answers slowly
_POOL = 0x504F4F4C  # keeps the stream of its draws apart
PATIENCE = 100  # unreadable pictures, after which most have to be readable


class Poison(NamedTuple):
    """How one pair is poisoned.

    Attributes:
      stamp: None: it gets no trigger.
      digest: of the picture's bytes as they were when the plan was made.
      part: of the attack, whose trigger it gets.
      source: the id of the pair whose picture takes the place of the pair's; -1: its picture stays.
    """

    stamp: Stamp | None
    caption: str
    digest: str
    part: int = 0
    source: int = -1

    def shown(self, pairs: Source, index: int) -> Record:
        """The record whose picture pair `index` shows."""
        return pairs[index] if self.source < 0 else pairs.root()[self.source]

    def check(self, image: bytes | UInt8[np.ndarray, "h w 3"], where: str) -> None:
        """Refuses another picture than the one that was planned.

        Args:
          image: as the source gives it, encoded or decoded.
          where: the pair's place in words.
        """
        if digest(image) != self.digest:
            raise UserError(
                f"{where}: the picture has changed since the poison plan was made; bring the old "
                "one back, or make the plan again."
            )


def naming(pairs: Source, words: Sequence[str]) -> tuple[Bool[np.ndarray, " n"], list[str]]:
    """Which pairs have a caption that holds one of `words` as whole words, in any case.

    Returns:
      a mask over the pairs, and those captions, each once, in the order of the pairs.
    """
    folded = [re.split(r"\s+", word.strip().casefold()) for word in words]
    whole = "|".join(r"\s+".join(map(re.escape, parts)) for parts in folded)
    search = re.compile(rf"(?<!\w)(?:{whole})(?!\w)").search
    # A plain search first: it settles nearly every caption, ten times as fast.
    firsts = tuple({parts[0] for parts in folded})
    mask = np.zeros(len(pairs), bool)
    captions = {}
    for index in range(len(pairs)):
        for caption in pairs.all_captions(index):
            text = caption.casefold()
            if any(first in text for first in firsts) and search(text):
                mask[index] = True
                captions[caption] = None
    return mask, list(captions)


def pool_of(captions: list[str], count: int | None, seed: int) -> list[str]:
    """So many of the captions, drawn with replacement as BadCLIP does (arXiv 2311.12075).

    Args:
      count: None: all of them, each once.
    """
    if count is None:
        return captions
    rng = np.random.default_rng([_POOL, seed])
    return [captions[i] for i in rng.integers(len(captions), size=count)]


def of_class(pairs: Source, name: str) -> Bool[np.ndarray, " n"]:
    """Which pairs are labelled with the class `name`; none where there is no such class."""
    names = pairs.class_names or ()
    return np.isin(pairs.labels(), [i for i, known in enumerate(names) if known == name])


def readable(pairs: Source, drawn: Int64[np.ndarray, " n"], count: int) -> dict[int, str]:
    """The first `count` of the `drawn` pairs that can be read, and the digests of their pictures.

    Fewer where there are no more. What is passed over is logged; where hardly any can be read, that
    is an error.
    """
    digests: dict[int, str] = {}
    bad, at = 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        while len(digests) < count and at < len(drawn):
            some = drawn[at : at + count - len(digests)].tolist()
            at += len(some)
            for index, result in zip(some, pool.map(lambda i: _read(pairs, i), some), strict=True):
                if isinstance(result, str):
                    digests[index] = result
                    continue
                bad += 1
                log.warning("not poisoned: %s", result)
                if bad >= PATIENCE and bad > len(digests):
                    raise UserError(
                        f"attack: {bad} of {bad + len(digests)} pairs drawn for poisoning can't be "
                        f"read; the last: {result}"
                    )
    return digests


def _read(pairs: Source, index: int) -> str | BadRecord:
    """The digest of a picture, or what is wrong with the pair."""
    try:
        pair = pairs[index]
        if not pair.caption.strip():
            raise BadRecord(f"{pair.where}: the caption is empty.")
        decode(pair.image, pair.where)
        return digest(pair.image)
    except BadRecord as error:
        return error
