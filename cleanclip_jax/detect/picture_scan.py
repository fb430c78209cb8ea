"""Pictures scored for triggers: a source's, or a run's test pictures with and without its own."""

import csv
import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from ml_collections import ConfigDict

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.detect.bdetclip import (
    PROMPTS,
    PictureDetector,
    descriptions,
    distracted,
    make_detector,
    threshold_of,
)
from cleanclip_jax.detect.roc import FALSE_POSITIVES, auroc_figure, tpr_at_fpr
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json, write_whole
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figures
from cleanclip_jax.measure.features import Shown, clean_and_triggered, embed, reading_of
from cleanclip_jax.measure.sets import LabelledSet, attacked, open_sets
from cleanclip_jax.text.prompts import templates

PICTURES, FOUND = "pictures.csv", "pictures.json"


@dataclass(frozen=True)
class ScoredPictures:
    """Scores of pictures, higher for suspicious; `triggered` where it is known."""

    source: Source
    index: Int64[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    triggered: Bool[np.ndarray, " n"] | None
    seconds: float  # of all of them, reading included

    def figures(self) -> Figures:
        """How well the scores part triggered pictures from clean ones."""
        if self.triggered is None:
            return {}
        on, off = self.scores[self.triggered], self.scores[~self.triggered]
        figures = {"auroc": auroc_figure(on, off, "triggered pictures", "clean")}
        for limit in FALSE_POSITIVES[:2]:
            figures[f"tpr_at_fpr_{100 * limit:g}"] = tpr_at_fpr(on, off, limit, "pictures")
        return figures


def open_detector(
    encoder: Encoder, config: ConfigDict, prompts: Path | None = None, seed: int = 0
) -> tuple[PictureDetector, LabelledSet | None]:
    """The detector of a run's classes, and the labelled set that they are of.

    Args:
      prompts: a JSON file of descriptions; None: the set's templates take their place. Without a
        labelled set its classes are the detector's.
      seed: draws the unrelated sentences.
    """
    labelled = next(iter(open_sets(config.evaluation)), None)
    if labelled is not None:
        classes, filled = list(dict.fromkeys(labelled.classes)), labelled.templates
    elif prompts is not None:
        classes = list(read_json(prompts, PROMPTS))
        filled = templates(config.evaluation.templates or "imagenet")
    else:
        raise UserError("config.evaluation.data names no classes: give --prompts=FILE.json")
    benign = descriptions(classes, filled, prompts)
    return make_detector(encoder, benign, distracted(classes, filled, seed)), labelled


def calibrated(
    detector: PictureDetector,
    config: ConfigDict,
    clean: Mapping[str, Any],
    false_positives: float,
) -> PictureDetector:
    """The detector with the threshold that so few of the clean pictures reach."""
    source = open_source(clean)
    shown = Shown(source, np.arange(len(source)))
    features = embed(detector.encoder, shown, reading_of(config))
    threshold = threshold_of(detector.scores(features.rows), false_positives)
    return replace(detector, threshold=threshold)


def score_pictures(
    detector: PictureDetector,
    config: ConfigDict,
    labelled: LabelledSet | None,
    source: Mapping[str, Any] | None = None,
) -> ScoredPictures:
    """Scores a source's pictures; None: the labelled set's, without and with the trigger."""
    start = time.perf_counter()
    if source is not None:
        pictures = open_source(source)
        shown = Shown(pictures, np.arange(len(pictures)))
        features = embed(detector.encoder, shown, reading_of(config))
        scores, triggered, index = detector.scores(features.rows), None, features.index
    else:
        if labelled is None or attacked(config.evaluation, [labelled]) is None:
            raise UserError("the run names no attack to test on: name pictures with --source")
        pictures = labelled.source
        pair = clean_and_triggered(config, detector.encoder, pictures, labelled.indices)
        scores = np.concatenate([detector.scores(part.rows) for part in pair])
        index = np.concatenate([part.index for part in pair])
        triggered = np.arange(len(scores)) >= len(pair[0].rows)
    seconds = time.perf_counter() - start
    return ScoredPictures(pictures, index, np.asarray(scores, np.float64), triggered, seconds)


def write_pictures(
    folder: Path, scored: ScoredPictures, detector: PictureDetector, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes pictures.csv, the most suspicious first, and pictures.json."""
    stream = io.StringIO()
    known = {} if scored.triggered is None else {"triggered": scored.triggered.astype(int)}
    limit = detector.threshold
    flags = {} if limit is None else {"flagged": (scored.scores >= limit).astype(int)}
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("index", "where", "score", *flags, *known))
    for row in np.argsort(-scored.scores, kind="stable").tolist():
        index = int(scored.index[row])
        marks = [int(column[row]) for column in (*flags.values(), *known.values())]
        writer.writerow((index, scored.source.where(index), f"{scored.scores[row]:.6g}", *marks))
    write_whole(folder / PICTURES, stream.getvalue())
    results = {
        "model": dict(model),
        "pictures": len(scored.scores),
        "milliseconds_each": 1000 * scored.seconds / max(1, len(scored.scores)),
        "threshold": limit,
        "flagged": int(flags["flagged"].sum()) if flags else None,
        "figures": {name: asdict(one) for name, one in scored.figures().items()},
    }
    write_whole(folder / FOUND, json.dumps(results, indent=2) + "\n")
    return results
