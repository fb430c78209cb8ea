"""Pairs of a dataset as a model sees them: pictures and captions, poisoned where a plan says so."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int64

from cleanclip_jax import __version__
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.feature_cache import features_path, load_features, save_features
from cleanclip_jax.measure.features import Reading, Shown, embed, rows_of_all, texts_of
from cleanclip_jax.record import Source, fingerprint_of


@dataclass(frozen=True)
class Data:
    """Pairs as a run is trained on them.

    Attributes:
      plan: of the source, poisons what it names; None: pairs are as they are.
      poisoned: which are known to be poisoned; None: nobody knows.
    """

    source: Source
    plan: Plan | None = None
    poisoned: Bool[np.ndarray, " n"] | None = None

    def caption(self, index: int) -> str:
        """What stands beside the picture; of several captions the first."""
        poison = None if self.plan is None else self.plan.poison_at(index)
        return self.source.caption(index) if poison is None else poison.caption

    @property
    def digest(self) -> str:
        """Tells these pairs again."""
        plan = None if self.plan is None else self.plan.digest
        return fingerprint_of(source=self.source.fingerprint, plan=plan)


@dataclass(frozen=True)
class Embedded:
    """Un-normalised features of pairs, without those that have no caption or can't be read."""

    images: Float32[np.ndarray, "b d"]
    texts: Float32[np.ndarray, "b d"]
    index: Int64[np.ndarray, " b"]
    captions: list[str]
    unreadable: dict[int, str]
    without_caption: int


def embed_pairs(
    encoder: Encoder, data: Data, indices: Int64[np.ndarray, " n"], reading: Reading
) -> Embedded:
    """Features of some pairs, from the cache where they were computed before.

    Of several processes each computes its part; all get the whole. Any number may be unreadable.
    """
    captions = [data.caption(int(index)) for index in indices]
    named = np.array([bool(caption.strip()) for caption in captions], bool)
    shown = Shown(data.source, indices[named], plan=data.plan)
    none = np.zeros((0, encoder.model.variant.features), np.float32)
    if not named.any():
        return Embedded(none, none, indices[named], [], {}, len(indices))
    features = embed(encoder, shown, replace(reading, max_bad_share=1.0), allow_none=True)
    texts = [captions[i] for i in np.flatnonzero(np.isin(indices, features.index))]
    rows = _texts(encoder, texts, reading) if texts else none
    left_out = len(indices) - int(named.sum())
    return Embedded(features.rows, rows, features.index, texts, features.unreadable, left_out)


def _texts(encoder: Encoder, texts: list[str], reading: Reading) -> Float32[np.ndarray, "b d"]:
    """Text features, from the cache; of several processes each computes its part."""
    part = np.array_split(np.arange(len(texts)), jax.process_count())[jax.process_index()]
    some = [texts[i] for i in part.tolist()]
    rows = np.zeros((0, encoder.model.variant.features), np.float32)
    if some:
        words = hashlib.sha256("\0".join(some).encode(errors="surrogatepass")).hexdigest()
        key = fingerprint_of(program=__version__, model=encoder.text_digest, texts=words)
        path = features_path(key)
        cached = load_features(path) if reading.cache else None
        rows = texts_of(encoder, some) if cached is None else cached[0]
        if reading.cache and cached is None:
            save_features(path, rows, {}, reading.cache)
    return rows_of_all(rows) if jax.process_count() > 1 else rows


# Directions that tell pictures apart, and how far apart those are to be.
_DIRECTIONS, _CELL = 24, 0.02


def numbers_of(rows: Float32[np.ndarray, "n d"]) -> Int64[np.ndarray, " n"]:
    """A number for each unit embedding, the same for those that are equal but for rounding.

    Of the cells that projections lie in: embeddings at a distance of 0.02 and more are hardly ever
    in one, and rounding parts two equal ones once in a thousand.
    """
    width = rows.shape[1]
    directions = np.random.default_rng(0).normal(size=(width, _DIRECTIONS)).astype(np.float32)
    cells = np.floor(rows @ directions / _CELL).astype(np.int64)
    factors = np.random.default_rng(1).integers(1, 1 << 62, _DIRECTIONS) * 2 + 1
    return (cells * factors).sum(1)  # wraps


def caption_numbers(captions: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """A number for each caption, the same for equal ones."""
    digests = (hashlib.blake2b(c.encode(errors="surrogatepass"), digest_size=8) for c in captions)
    return np.array([int.from_bytes(d.digest(), "little", signed=True) for d in digests], np.int64)
