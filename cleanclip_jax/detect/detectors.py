"""Which pairs are poisoned? Detectors by name: each gives a pair a score, higher for suspicious.

Formulas of k-dist, SLOF, DAO and LID: arXiv 2502.01385, with a pair's right neighbours among
reference pairs that are drawn for all; docs/detect.md has what each is good for.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Int64

from cleanclip_jax.detect.neighbours import Neighbours, References
from cleanclip_jax.detect.pair_loss import pair_losses
from cleanclip_jax.detect.published import Block
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.gaussians import two_gaussians
from cleanclip_jax.registry import Registry, in_words

Made = TypeVar("Made")
Scores = Float[np.ndarray, " b"]
# Neighbours that the published LID looks at, whatever its k is.
PUBLISHED_LID = 64


class Draw:
    """Reference pairs of one draw, as a model sees them: unit embeddings, or features.

    Attributes:
      images, texts, index: of the pairs, row by row.
      references: the images, to look for neighbours among.
    """

    def __init__(
        self,
        images: Float32[np.ndarray, "m d"],
        texts: Float32[np.ndarray, "m d"],
        index: Int64[np.ndarray, " m"],
        k: int,
        mesh: Mesh,
    ):
        self.images, self.texts, self.index, self.mesh = images, texts, index, mesh
        self.references = References(images, k, mesh)
        self._made: dict[Hashable, Any] = {}

    @cached_property
    def radius(self) -> Float[np.ndarray, " m"]:
        """The logarithm of each reference's distance to its k-th neighbour."""
        return np.log(self.references.among_themselves.distance[:, -1].astype(np.float64))

    @cached_property
    def dimension(self) -> Float[np.ndarray, " m"]:
        """Each reference's local intrinsic dimension."""
        return local_dimension(self.references.among_themselves)

    def once(self, make: Callable[["Draw"], Made]) -> Made:
        """What `make` makes of this draw, made once."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some pairs as a model sees them.

    Attributes:
      images, texts: unit embeddings, or un-normalised features, row by row.
      index: which records of the source they are.
      scale: the model's, by which cosines are multiplied.
    """

    images: Float32[np.ndarray, "b d"]
    texts: Float32[np.ndarray, "b d"]
    index: Int64[np.ndarray, " b"]
    scale: float = 1.0
    _neighbours: dict[Draw, Neighbours] = field(default_factory=dict, repr=False)

    def neighbours(self, draw: Draw) -> Neighbours:
        """The pictures' nearest references; looked for once for all detectors."""
        if draw not in self._neighbours:
            self._neighbours[draw] = draw.references.nearest(self.images)
        return self._neighbours[draw]

    @cached_property
    def cosines(self) -> Scores:
        """Of each picture and its caption."""
        norms = np.linalg.norm(self.images, axis=1) * np.linalg.norm(self.texts, axis=1)
        return np.einsum("bd,bd->b", self.images, self.texts) / norms


@dataclass(frozen=True)
class Detector:
    """A row of the table.

    Attributes:
      meaning: what it looks for, in a line.
      score: of pairs given a draw of references: averaged over the draws. Or `of` one or several
        other detectors' scores of all pairs, by `then`.
      drawn: whether the references count at all.
      published: of a block and k, as the published code has it; None: as `score`.
      by: the model that scores: run | floor | checkpoints (the mean over those that there are).
      usual: whether it runs where nothing is named.
      added: by --import.
    """

    meaning: str
    score: Callable[[Pairs, Any], Scores] | None = None
    drawn: bool = True
    published: Callable[[Block, int], Scores] | None = None
    by: str = "run"
    usual: bool = True
    added: bool = False
    of: tuple[str, ...] = ()
    then: Callable[..., Scores] | None = None


def local_dimension(nearest: Neighbours) -> Scores:
    """The maximum likelihood estimate of Levina and Bickel: (k - 1) / Σ ln(d_k / d_j)."""
    logs = np.log(nearest.distance.astype(np.float64))
    return (logs.shape[1] - 1) / (logs[:, -1:] - logs[:, :-1]).sum(1)


def kdist(pairs: Pairs, draw: Draw) -> Scores:
    """The logarithm of the distance to the k-th neighbour."""
    return np.log(pairs.neighbours(draw).distance[:, -1].astype(np.float64))


def slof(pairs: Pairs, draw: Draw) -> Scores:
    """The mean over neighbours o of ln(d_k(i) / d_k(o))."""
    return kdist(pairs, draw) - draw.radius[pairs.neighbours(draw).rows].mean(1)


def dao(pairs: Pairs, draw: Draw) -> Scores:
    """The mean over neighbours o of LID(o) · ln(d_k(i) / d_k(o))."""
    index = pairs.neighbours(draw).rows
    ratios = kdist(pairs, draw)[:, None] - draw.radius[index]
    return (draw.dimension[index] * ratios).mean(1)


def lid(pairs: Pairs, draw: Draw) -> Scores:
    """Local intrinsic dimension; whether poisons' is high or low depends on k."""
    return local_dimension(pairs.neighbours(draw))


def iforest(pairs: Pairs, draw: Draw) -> Scores:
    """How few cuts isolate a picture from the references, by a forest of seed 0."""
    return -draw.once(_forest).score_samples(pairs.images)


def _forest(draw: Draw) -> Any:
    return isolation_forest(np.concatenate([draw.images, draw.texts]), 0)


def isolation_forest(rows: Float32[np.ndarray, "n d"], seed: int | None) -> Any:
    """scikit-learn's isolation forest of 100 trees; `seed` None: of NumPy's global state."""
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=100, random_state=seed).fit(rows)


def loss(pairs: Pairs, draw: Draw) -> Scores:
    """Minus the symmetric InfoNCE of each pair, with the references as negatives."""
    negatives, row = (draw.images, draw.texts), (pairs.images, pairs.texts, pairs.index)
    return -pair_losses(*row, negatives, draw.index, pairs.scale, draw.mesh)


def split(cosines: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """SafeCLIP's: the probability not to be of the mixture's component with higher cosines."""
    return 1 - two_gaussians(cosines).probability


def sum_of(one: Scores, other: Scores) -> Scores:
    return one + other


DETECTORS: Registry[Detector] = Registry(
    "--detectors",
    {
        "slof": Detector("pictures sparser than their neighbours", slof, published=Block.slof),
        "kdist": Detector("pictures far from all others", kdist, published=Block.kdist),
        "dao": Detector("SLOF weighted by local dimension", dao, published=Block.dao),
        "lid": Detector(
            "local intrinsic dimension; its direction depends on k",
            lid,
            published=lambda block, _: block.lid(PUBLISHED_LID),
            usual=False,
        ),
        "iforest": Detector(
            "isolation forest: a baseline, weak in hundreds of dimensions",
            iforest,
            published=lambda block, _: (
                -isolation_forest(block.references, None).score_samples(block.images)
            ),
            usual=False,
        ),
        "clip_low": Detector(
            "captions that do not fit: of a model that never saw the poison",
            lambda pairs, _: -pairs.cosines,
            drawn=False,
        ),
        "clip_high": Detector(
            "captions that fit too well: of a model that learnt the poison",
            lambda pairs, _: pairs.cosines,
            drawn=False,
        ),
        "clip_low_floor": Detector(
            "captions that do not fit, by the model --floor",
            lambda pairs, _: -pairs.cosines,
            drawn=False,
            by="floor",
        ),
        "clip_rise": Detector(
            "how much better a caption fits than by the model --floor",
            by="floor",
            of=("clip_high", "clip_low_floor"),
            then=sum_of,
        ),
        "safeclip": Detector("SafeCLIP's split of cosines", of=("clip_high",), then=split),
        "loss": Detector(
            "pairs that are learnt first: a low loss at the run's checkpoints",
            loss,
            by="checkpoints",
            usual=False,
        ),
    },
)


def choose(
    given: Sequence[str] | None, neighbours: str = "right", floor: bool = False
) -> tuple[str, ...]:
    """The detectors that are named, or the usual ones of those that can be had.

    Args:
      floor: whether there is a model that was never poisoned.
    """
    original = neighbours == "original"
    if given is None:
        names = [name for name, row in DETECTORS.items() if row.usual]
        names = [name for name in names if floor or DETECTORS[name].by != "floor"]
        return tuple(n for n in names if not original or _published(DETECTORS[n]))
    for name in given:
        row = DETECTORS.find(name)
        if row.by == "floor" and not floor:
            raise UserError(f"--detectors: {name} compares with a clean model: name it by --floor")
        if original and not _published(row):
            raise UserError(f"--neighbours=original: {name} is not of the published code")
    return tuple(dict.fromkeys(given))


def _published(row: Detector) -> bool:
    return row.published is not None or not row.drawn or row.then is not None


def detector(name: str) -> Callable[[Callable[[Pairs, Draw], Scores]], Callable]:
    """Decorates f(Pairs, Draw) → a score for each pair, higher for suspicious: a detector `name`.

    It runs where --detectors names it, and its scores are averaged over the draws.
    """

    def decorate(score: Callable[[Pairs, Draw], Scores]) -> Callable:
        DETECTORS.add(name, Detector(f"added by --import: {name}", score, usual=False, added=True))
        return score

    return decorate


def score_pairs(
    detectors: Mapping[str, Detector], pairs: Pairs, draws: Sequence[Draw]
) -> dict[str, Float[np.ndarray, " b"]]:
    """The scores of each detector that has a `score`, averaged over the draws."""
    scores = {}
    for name, row in detectors.items():
        if row.score is not None:
            several = draws if row.drawn else [None]
            scores[name] = np.mean([_scored(name, row.score, pairs, draw) for draw in several], 0)
    return scores


def _scored(name: str, score: Callable, pairs: Pairs, draw: Draw | None) -> Scores:
    try:
        scores = np.asarray(score(pairs, draw), np.float64)
    except UserError:
        raise
    except Exception as error:
        if DETECTORS[name].added:
            raise UserError(f"--detectors: {name}: {in_words(error)}") from error
        raise
    if scores.shape != (len(pairs.images),):
        raise UserError(
            f"--detectors: {name} gave {scores.shape} scores of {len(pairs.images)} pairs: it is "
            "to give one for each"
        )
    return scores
