"""A whole dataset scored in parts: memory is bounded by a part, and a stop costs no more than one.

Each model that scores makes a pass over the parts; a part's scores are a file, known again by all
that decides them.
"""

import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from cleanclip_jax import __version__
from cleanclip_jax.data.scores import lowest
from cleanclip_jax.detect.detectors import DETECTORS, Detector, Draw, Pairs, score_pairs
from cleanclip_jax.detect.embedded import Data, Embedded, caption_numbers, embed_pairs, numbers_of
from cleanclip_jax.detect.published import Block
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_bytes, write_whole
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.process import agree_on, agreed, is_first

log = logging.getLogger(__name__)

PARTS = "parts"
EVERY = 10.0  # seconds between lines of progress
_MOST = 1 << 30  # bytes of a part's file
_SCORE = "score "  # before a detector's name, in a part


@dataclass(frozen=True)
class Pass:
    """A model that scores all pairs.

    Attributes:
      name: run, floor or a checkpoint's step: what the parts' files are called.
      open: loads it.
      detectors: by name, those that it scores with.
    """

    name: str
    open: Callable[[], Encoder]
    detectors: Mapping[str, Detector]


@dataclass(frozen=True)
class Scores:
    """Of the pairs that could be read, in the order of the source.

    Attributes:
      index: their records.
      columns: each detector's scores, higher for suspicious.
      copies: how many pairs have the same picture but for rounding, itself counted.
      captions: a number for each caption, the same for equal ones.
      cosines: of picture and caption, by the first pass's model.
    """

    index: Int64[np.ndarray, " n"]
    columns: dict[str, Float64[np.ndarray, " n"]]
    copies: Int64[np.ndarray, " n"]
    captions: Int64[np.ndarray, " n"]
    cosines: Float64[np.ndarray, " n"]
    unreadable: dict[int, str]
    without_caption: int

    def top(self, name: str, share: float) -> Int64[np.ndarray, " m"]:
        """Rows of the highest scores of a detector, that share of all: the highest first."""
        rows = np.flatnonzero(lowest(-self.columns[name], share))
        return rows[np.argsort(-self.columns[name][rows], kind="stable")]


def scan(
    passes: list[Pass], data: Data, settings: Settings, reading: Reading, folder: Path
) -> Scores:
    """Scores all pairs by each pass, and puts together what the parts' files hold.

    Args:
      folder: takes the parts; those of an earlier scan that was stopped are not made again.
    """
    made = [_Scan(one, data, settings, reading, folder / PARTS).run() for one in passes]
    first, several = made[0], {}
    for columns in made:
        if not np.array_equal(columns["index"], first["index"]):
            raise UserError("pictures became readable or unreadable meanwhile: scan them again")
        for name, column in columns.items():
            if name.startswith(_SCORE):
                several.setdefault(name.removeprefix(_SCORE), []).append(column)
    scores = {name: np.mean(columns, axis=0) for name, columns in several.items()}
    for name in settings.detectors:
        if (then := DETECTORS[name].then) is not None:
            scores[name] = then(*(scores[other] for other in DETECTORS[name].of))
    notes = json.loads(str(first["notes"]))
    _, place, counts = np.unique(first["pictures"], return_inverse=True, return_counts=True)
    return Scores(
        first["index"],
        {name: scores[name] for name in settings.detectors},
        counts[place],
        first["captions"],
        first["cosines"],
        {int(index): text for index, text in notes["unreadable"].items()},
        notes["without_caption"],
    )


class _Scan:
    """One pass over all parts."""

    def __init__(self, one: Pass, data: Data, settings: Settings, reading: Reading, folder: Path):
        self.one, self.data, self.settings, self.reading = one, data, settings, reading
        self.encoder = one.open()
        self.scale = float(np.exp(np.asarray(self.encoder.variables["params"]["logit_scale"])))
        self.parts = settings.parts(len(data.source))
        self.files = [folder / f"{one.name}-{i:05d}.npz" for i in range(len(self.parts))]
        scored = {**asdict(settings), "detectors": sorted(one.detectors)}
        self.facts = {
            "pairs": data.digest,
            "model": f"{self.encoder.digest} {self.encoder.text_digest}",
            "settings": json.dumps(scored, sort_keys=True),
            "program": __version__,
        }

    def run(self) -> dict[str, np.ndarray]:
        """The columns of all parts, in the order of the source."""
        there = [self.read(file) is not None for file in self.files]
        agree_on({"the parts that were scored before": repr(there)})
        if not all(there):
            self.score_parts(there)
        with agreed():  # the first process has written all of them
            made = [self.read(file) for file in self.files]
        parts = [part for part in made if part is not None]
        notes = [json.loads(str(part.pop("notes"))) for part in parts]
        unreadable = {k: v for note in notes for k, v in note["unreadable"].items()}
        if len(unreadable) > self.reading.max_bad_share * len(self.data.source):
            raise UserError(
                f"{len(unreadable)} of {len(self.data.source)} pairs are unreadable, more than "
                "config.data.max_bad_share allows; the first: " + next(iter(unreadable.values()))
            )
        # One column after the other leaves the parts, so that none is held twice.
        columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}
        order = np.argsort(columns["index"], kind="stable")
        left_out = sum(note["without_caption"] for note in notes)
        whole = json.dumps({"unreadable": unreadable, "without_caption": left_out})
        return {name: columns.pop(name)[order] for name in [*columns]} | {"notes": np.array(whole)}

    def score_parts(self, there: list[bool]) -> None:
        score = self.original if self.settings.neighbours == "original" else self.with_draws()
        todo = [i for i, done in enumerate(there) if not done]
        total = sum(len(self.parts[i]) for i in todo)
        start = last = time.monotonic()
        done = 0
        for i in todo:
            pairs = embed_pairs(self.encoder, self.data, self.parts[i], self.reading)
            notes = {"unreadable": pairs.unreadable, "without_caption": pairs.without_caption}
            columns = {
                "index": pairs.index,
                "pictures": numbers_of(unit(pairs.images)),
                "captions": caption_numbers(pairs.captions),
                "cosines": self.pairs_of(pairs).cosines.astype(np.float64),
                **{_SCORE + name: scores for name, scores in score(pairs).items()},
            }
            if is_first():
                content = io.BytesIO()
                texts = {"facts": json.dumps(self.facts), "notes": json.dumps(notes)}
                np.savez(content, **{k: np.array(v) for k, v in texts.items()}, **columns)
                write_whole(self.files[i], content.getvalue())
            done += len(self.parts[i])
            if (now := time.monotonic()) - last > EVERY and done < total:
                last, speed = now, done / (now - start)
                left = (total - done) / speed / 60
                text = "%s: %d of %d pairs scored, %.0f a second, %.0f min left"
                log.info(text, self.one.name, done, total, speed, left)

    def pairs_of(self, pairs: Embedded) -> Pairs:
        """As they are scored: of unit length, or as the model gives them."""
        as_given = not self.settings.normalise or self.settings.neighbours == "original"
        images, texts = (rows if as_given else unit(rows) for rows in (pairs.images, pairs.texts))
        return Pairs(images, texts, pairs.index, self.scale)

    def with_draws(self) -> Callable[[Embedded], dict[str, np.ndarray]]:
        """Scores against references that are drawn once for all parts."""
        settings, count = self.settings, len(self.data.source)
        drawn = settings.references(count)
        every = self.pairs_of(embed_pairs(self.encoder, self.data, np.unique(drawn), self.reading))
        draws = []
        for index in drawn:
            rows = np.flatnonzero(np.isin(every.index, index))
            images, texts = every.images[rows], every.texts[rows]
            draws.append(Draw(images, texts, every.index[rows], settings.k, self.encoder.mesh))
        return lambda pairs: score_pairs(self.one.detectors, self.pairs_of(pairs), draws)

    def original(self, pairs: Embedded) -> dict[str, np.ndarray]:
        """Scores within the block, by the published code."""
        if len(pairs.index) < self.settings.k + 2:
            raise UserError(
                f"a block of {len(pairs.index)} pairs is too small for k = {self.settings.k}: "
                "lower --k, or set --block so that the last one is larger"
            )
        block, same, scores = Block(pairs.images, pairs.texts), self.pairs_of(pairs), {}
        for name, row in self.one.detectors.items():
            if row.published is not None:
                values = np.asarray(row.published(block, self.settings.k), np.float64)
                scores[name] = np.where(np.isfinite(values), values, np.nan)
            else:
                scores |= score_pairs({name: row}, same, [])
        return scores

    def read(self, file: Path) -> dict[str, np.ndarray] | None:
        """A part's columns; None where it is not there, or torn. One of another scan is refused."""
        if not file.is_file():
            return None
        try:
            with np.load(io.BytesIO(read_bytes(file, _MOST))) as arrays:
                part = dict(arrays)
            facts = json.loads(str(part.pop("facts")))
        except Exception as error:  # NumPy has errors of many kinds
            log.warning("%s is damaged (%s): it is made again", file, error)
            return None
        for name, value in self.facts.items():
            if facts.get(name) != value:
                raise UserError(
                    f"{file.parent} holds a scan that was stopped, and its {name} "
                    f"{'are' if name.endswith('s') else 'is'} not as now: remove that folder, or "
                    "name another with --output"
                )
        return part
