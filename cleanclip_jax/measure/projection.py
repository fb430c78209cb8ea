"""Embeddings on a plane: PCA and t-SNE of pictures with and without the trigger."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool, Float32, Int64
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import read_bytes, written_whole
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import clean_and_triggered
from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.measure.sets import LabelledSet, attacked_set

LEAST = 10  # pictures; fewer have no shape
MOST_BYTES = 1 << 28  # of a file; a million pictures take a quarter of it


@dataclass(frozen=True)
class Projection:
    """Places of `m` embeddings: those of clean pictures, then of the same pictures triggered."""

    pca: Float32[np.ndarray, "m 2"]
    tsne: Float32[np.ndarray, "m 2"]
    explained: Float32[np.ndarray, " 2"]  # share of the variance on each of PCA's axes
    triggered: Bool[np.ndarray, " m"]
    label: Int64[np.ndarray, " m"]  # true class
    index: Int64[np.ndarray, " m"]  # the record
    target: int  # the attack's class

    @property
    def groups(self) -> list[str]:
        """What each row is, in the words that figures use."""
        rows = zip(self.triggered.tolist(), (self.label == self.target).tolist(), strict=True)
        return [
            f"{'triggered' if on else 'clean'}, {'target class' if target else 'other classes'}"
            for on, target in rows
        ]

    def save(self, path: Path) -> None:
        """Writes all of it as an .npz, whole or not at all."""
        with written_whole(path) as scratch, scratch.open("wb") as stream:
            np.savez(stream, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Projection":
        """Reads what `save` wrote."""
        try:
            stream = io.BytesIO(read_bytes(path, MOST_BYTES))
            if any(part.compress_type for part in zipfile.ZipFile(stream).infolist()):
                raise ValueError("its arrays are compressed")  # and may stand for any size
            with np.load(stream) as arrays:
                parts = dict(arrays)
            loaded = cls(**{**parts, "target": int(parts["target"])})
            if not loaded.pca.shape == loaded.tsne.shape == (*loaded.label.shape, 2):
                raise ValueError("its arrays don't belong together")
            return loaded
        except Exception as error:  # NumPy has errors of many kinds
            what = f"{path} is no projection that evaluate wrote: {reason(error)}"
            raise UserError(what) from None


def check_projection(settings: ConfigDict, first: LabelledSet | None) -> LabelledSet:
    """Returns the set whose pictures are projected; refuses what gives no projection."""
    where = f"config.evaluation.projection is {settings.projection}"
    if settings.projection < LEAST:
        raise UserError(f"{where}: it takes {LEAST} or more pictures, or 0 for none")
    if first is None or first.target is None:
        raise UserError(f"{where}: it needs a labelled set and an attack on it, or 0 for none")
    if len(first.indices) < LEAST:
        raise UserError(f"{where}: {first.name} has {len(first.indices)}, {LEAST} are needed")
    return first


def project_first(config: ConfigDict, encoder: Encoder) -> Projection:
    """Projects embeddings of the first set's pictures, `config.evaluation.projection` of them."""
    first = check_projection(config.evaluation, attacked_set(config.evaluation))
    # All of them, though few are drawn: they are in the cache from measuring the set.
    clean, triggered = clean_and_triggered(config, encoder, first.source, first.indices)
    drawn = np.isin(clean.index, choose(first.labels, config.evaluation.projection, config.seed))
    index = clean.index[drawn]
    return project(
        *(unit(clean.rows[drawn]), unit(triggered.rows[drawn])),
        *(first.labels[index], index, cast(int, first.target), config.seed),
    )


def choose(labels: Int64[np.ndarray, " n"], count: int, seed: int) -> Int64[np.ndarray, " m"]:
    """Which labelled records are drawn: `count` at random by the seed, or all, ascending."""
    labelled = np.flatnonzero(labels >= 0)
    if len(labelled) <= count:
        return labelled
    return np.sort(np.random.default_rng(seed).choice(labelled, count, replace=False))


def project(
    clean: Float32[np.ndarray, "n d"],
    triggered: Float32[np.ndarray, "n d"],
    label: Int64[np.ndarray, " n"],
    index: Int64[np.ndarray, " n"],
    target: int,
    seed: int,
) -> Projection:
    """Projects unit embeddings of the same pictures, clean and triggered, together.

    PCA keeps straight distances along the two widest directions; t-SNE (van der Maaten and Hinton
    2008) keeps neighbourhoods alone: the size of and the gap between its clusters mean nothing.
    """
    # Deferred: scikit-learn takes a second to import and other measurements don't need it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(clean) < LEAST:
        raise UserError(f"config.evaluation.projection: {len(clean)} pictures, {LEAST} are needed")
    rows = np.concatenate([clean, triggered])
    linear = PCA(2, svd_solver="full").fit(rows)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    neighbours = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    # Two threads that wait for each other, where others compute too, take twenty times as long.
    with threadpool_limits(1):
        places = neighbours.fit_transform(rows)
    return Projection(
        pca=linear.transform(rows).astype(np.float32),
        tsne=places.astype(np.float32),
        explained=linear.explained_variance_ratio_.astype(np.float32),
        triggered=np.repeat([False, True], len(clean)),
        label=np.tile(label, 2),
        index=np.tile(index, 2),
        target=target,
    )
