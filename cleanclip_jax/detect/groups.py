"""What the most suspicious pairs have in common: a caption, a picture; kinds are not judged.

Natural backdoors come as groups: a caption with hundreds of pictures alike (arXiv 2502.01385 found
a cake in CC3M), or a placeholder picture under many captions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from cleanclip_jax.detect.embedded import Data, embed_pairs
from cleanclip_jax.detect.scan import Scores
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.measure.ranks import unit

TOP = 0.01  # the share of pairs that are grouped, the most suspicious
LEAST, MOST = 10, 20_000  # and how many: pictures are compared each with each
ALIKE = 0.95  # cosine of pictures that count as alike


@dataclass(frozen=True)
class Group:
    """Pairs among the most suspicious.

    Attributes:
      kind: one caption, many pictures alike | one caption | one picture, many captions.
      caption: theirs, or of the most suspicious of them.
      ids: of the most suspicious five, that one first.
      size: how many of them are among the most suspicious.
      in_data: how many pairs of all have the caption; of a picture how many have one like it, by
        what the reference pairs show and one more.
      times_chance: how much more often than by chance a pair of the group is among the most
        suspicious.
      p: of so many or more by chance (hypergeometric).
      score: their median.
      cosine: of picture and caption, the median.
      alike: the median cosine of their pictures to the most suspicious one's.
    """

    kind: str
    caption: str
    ids: tuple[int, ...]
    size: int
    in_data: int
    times_chance: float
    p: float
    score: float
    cosine: float
    alike: float


def find_groups(
    encoder: Encoder,
    data: Data,
    scores: Scores,
    settings: Settings,
    by: str,
    reading: Reading,
    most: int = 100,
) -> list[Group]:
    """The groups of two pairs and more, the least likely by chance first.

    Args:
      by: the detector whose highest scores are grouped.
    """
    total = len(scores.index)
    rows = scores.top(by, min(1.0, max(TOP, LEAST / total)))[:MOST]
    pairs = embed_pairs(encoder, data, np.sort(scores.index[rows]), reading)
    place = np.searchsorted(pairs.index, scores.index[rows])
    pictures = unit(pairs.images)[place]
    captions = [pairs.captions[i] for i in place]
    ids = data.source.ids()[scores.index[rows]]
    drawn = np.unique(settings.references(len(data.source)))
    references = unit(embed_pairs(encoder, data, drawn, reading).images)

    def group(kind: str, members: np.ndarray, in_data: int) -> Group:
        first, part = int(members[0]), rows[members]
        alike = pictures[members] @ pictures[first]
        if kind == "one caption" and np.median(alike) > ALIKE:
            kind = "one caption, many pictures alike"
        return Group(
            kind,
            captions[first],
            tuple(ids[members[:5]].tolist()),
            len(members),
            in_data,
            round(len(members) / len(rows) / (in_data / total), 3),
            _by_chance(len(members), in_data, len(rows), total),
            round(float(np.median(scores.columns[by][part])), 6),
            round(float(np.median(scores.cosines[part])), 6),
            round(float(np.median(alike)), 6),
        )

    groups = [
        group("one caption", members, int((scores.captions == number).sum()))
        for number, members in _equal(scores.captions[rows])
    ]
    for members in _alike(pictures):
        if len({captions[i] for i in members.tolist()}) > 1:
            like = int((references @ pictures[members[0]] > ALIKE).sum()) + 1
            in_data = max(len(members), round(like / (len(references) + 1) * total))
            groups.append(group("one picture, many captions", members, in_data))
    return sorted(groups, key=lambda one: (one.p, -one.size))[:most]


def _equal(numbers: Int64[np.ndarray, " n"]) -> list[tuple[int, Int64[np.ndarray, " m"]]]:
    """Numbers that occur twice and more, with their places."""
    order = np.argsort(numbers, kind="stable")
    values, starts, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    return [(int(values[i]), order[starts[i] : starts[i] + counts[i]]) for i in several.tolist()]


def _alike(pictures: Float32[np.ndarray, "n d"]) -> list[Int64[np.ndarray, " m"]]:
    """Each picture that no earlier one has taken, with those like it: two and more."""
    free, groups = np.ones(len(pictures), bool), []
    for row in range(len(pictures)):
        if free[row]:
            rest = np.flatnonzero(free)
            members = rest[pictures[rest] @ pictures[row] > ALIKE]
            free[members] = False
            if len(members) > 1:
                groups.append(members)
    return groups


def _by_chance(hits: int, marked: int, drawn: int, total: int) -> float:
    from scipy.stats import hypergeom  # deferred: a second

    return float(hypergeom.sf(hits - 1, total, marked, drawn))
