"""What a source of pairs is, and the record it gives."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8


@dataclass(frozen=True)
class Record:
    """One pair as its source holds it.

    Attributes:
      image: the encoded file (JPEG, PNG, …) or the decoded picture.
      caption: "" where there is none; of several the first.
      label: index into the source's class_names, -1 where there is none.
      where: the record's place in words a person can follow ("pairs.csv row 17").
    """

    image: bytes | UInt8[np.ndarray, "h w 3"]
    caption: str
    label: int
    where: str


@runtime_checkable
class Source(Protocol):
    """Pairs at random access. Pickles as a path, never as a table: each worker gets a copy.

    To be inherited from: what has a body here is right for every source but a part of another.
    """

    fingerprint: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """The record at `index`; raises views.decode.BadRecord where it cannot be read."""
        ...

    def caption(self, index: int) -> str:
        """The caption alone: the image is not touched."""
        ...

    def all_captions(self, index: int) -> Sequence[str]:
        """Of a record with several captions all, of which training draws one an epoch."""
        return (self.caption(index),)

    def has_lists(self) -> bool:
        """Whether some of the records may have several captions."""
        return False

    def where(self, index: int) -> str:
        """The record's place, as in Record.where, also for records that cannot be read."""
        ...

    def labels(self) -> Int64[np.ndarray, " n"]:
        """The label of every record, -1 where there is none."""
        ...

    def ids(self) -> Int64[np.ndarray, " n"]:
        """Every record's number in `root`, ascending: it stays when other records are left out."""
        return np.arange(len(self))

    def root(self) -> "Source":
        """The whole dataset that this is a part of; of a source that is no part, itself."""
        return self

    def unfiltered(self) -> "Source":
        """This source before `keep` and `skip`: the one that an attack is planned on."""
        return self


def template_caption(index: int, templates: Sequence[str], name: str) -> str:
    """A caption for a labelled picture: a template, fixed by the index, filled with its class.

    Labelled sets have no captions. A hash and not `index % n`: neighbours in a file are often of
    one class, or alternate, and would otherwise meet the same templates.
    """
    from cleanclip_jax.text.prompts import fill

    digest = hashlib.blake2b(b"template %d" % index, digest_size=8).digest()
    return fill(templates[int.from_bytes(digest, "little") % len(templates)], name)


def fingerprint_of(**parts: object) -> str:
    """A sha256 over everything that decides rows and captions."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def order_names(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names in a fixed order; whole numbers by value, so that 10 follows 9."""
    return tuple(sorted(set(names), key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n)))
