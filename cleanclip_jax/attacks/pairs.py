"""What a plan asks of the pairs it poisons: which of them name the target, and can be read."""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord, decode

log = getLogger(__name__)

THREADS = 8  # that read pictures: a store far away answers slowly
PATIENCE = 100  # unreadable pictures, before it's asked whether any are readable


@runtime_checkable
class Pair(Protocol):
    """One pair: the encoded or decoded picture, its caption, and its place in words."""

    @property
    def image(self) -> bytes | np.ndarray: ...
    @property
    def caption(self) -> str: ...
    @property
    def where(self) -> str: ...


@runtime_checkable
class Pairs(Protocol):
    """Pairs at random access: the part of a data.records.Source that planning needs."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Pair: ...
    def caption(self, index: int) -> str: ...
    def labels(self) -> Int64[np.ndarray, " n"]: ...


def digest(image: bytes | np.ndarray) -> str:
    """Sixteen hexadecimal digits that tell a picture's bytes from others'."""
    data = image if isinstance(image, bytes) else b"%r" % (image.shape,) + image.tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def naming(pairs: Pairs, words: Sequence[str]) -> tuple[Bool[np.ndarray, " n"], list[str]]:
    """Which captions hold one of `words` as whole words, in any case; and those captions.

    Returns:
      a mask over the pairs, and the distinct captions in the order of the pairs.
    """
    folded = [re.split(r"\s+", word.strip().casefold()) for word in words]
    whole = "|".join(r"\s+".join(map(re.escape, parts)) for parts in folded)
    search = re.compile(rf"(?<!\w)(?:{whole})(?!\w)").search
    # A plain search first: it settles nearly every caption, ten times as fast.
    firsts = tuple({parts[0] for parts in folded})
    found = np.zeros(len(pairs), bool)
    captions = {}
    for index in range(len(pairs)):
        caption = pairs.caption(index)
        text = caption.casefold()
        if any(first in text for first in firsts) and search(text):
            found[index] = True
            captions[caption] = None
    return found, list(captions)


def of_class(pairs: Pairs, name: str) -> Bool[np.ndarray, " n"]:
    """Which pairs are labelled with the class `name`; none where there is no such class."""
    names = pairs.class_names or ()
    return np.isin(pairs.labels(), [i for i, known in enumerate(names) if known == name])


def readable(pairs: Pairs, drawn: Int64[np.ndarray, " n"], count: int) -> dict[int, str]:
    """The first `count` of the `drawn` pairs that can be read, and the digests of their pictures.

    Fewer where there are no more. What is passed over is logged.

    Raises:
      UserError: when hardly any can be read.
    """
    found: dict[int, str] = {}
    bad, at = 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        while len(found) < count and at < len(drawn):
            some = drawn[at : at + count - len(found)].tolist()
            at += len(some)
            for index, seen in zip(some, pool.map(lambda i: _read(pairs, i), some), strict=True):
                if isinstance(seen, str):
                    found[index] = seen
                    continue
                bad += 1
                log.warning("not poisoned: %s", seen)
                if bad >= PATIENCE and bad > len(found):
                    raise UserError(
                        f"attack: {bad} of {bad + len(found)} pairs drawn for poisoning can't be "
                        f"read; the last: {seen}"
                    )
    return found


def _read(pairs: Pairs, index: int) -> str | BadRecord:
    """The digest of a picture, or what is wrong with the pair."""
    try:
        pair = pairs[index]
        if not pair.caption.strip():
            raise BadRecord(f"{pair.where}: the caption is empty.")
        decode(pair.image, pair.where)
        return digest(pair.image)
    except BadRecord as error:
        return error
