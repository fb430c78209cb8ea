"""The part of `cleanclip detect model` that inverts a trigger for each caption: --captions.

OUTPUT gets captions.json: the smallest patch to each caption, and how far it is below the others'.
Captions that are done there are not searched again.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from ml_collections import ConfigDict

from cleanclip_jax.detect.caption_patches import anomaly_index, caption_patches
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_bytes, read_json, write_whole
from cleanclip_jax.measure.features import texts_of
from cleanclip_jax.measure.ranks import text_classifier, unit
from cleanclip_jax.measure.sets import LabelledSet, open_sets
from cleanclip_jax.record import Source
from cleanclip_jax.workdir import workdir_path

CAPTIONS = "captions.json"
CLASSES = "classes"  # in place of a file
_ROW = {"caption": str, "control": bool, "size": float | None, "share": float | None, "steps": int}
_SHAPE = {"settings": dict, "captions": [_ROW]}


class Candidates(NamedTuple):
    """Captions that are held against one another.

    Attributes:
      texts: those to look at first, then the controls.
      controls: how many of the last are.
      units: unit embeddings.
    """

    texts: tuple[str, ...]
    controls: int
    units: Float32[np.ndarray, "c d"]


def named_classes(config: ConfigDict) -> LabelledSet:
    """The classes and templates of config.evaluation; the attack that it names plays no part."""
    settings = config.evaluation.copy_and_resolve_references()
    with settings.unlocked(), settings.ignore_type():
        settings.attack, settings.target = None, None
    sets = open_sets(settings)
    if not sets:
        raise UserError(
            "config.evaluation.data is not set: the classes among which the target is come from it "
            "(its pictures are not read)"
        )
    return sets[0]


def candidates(
    tower: Tower, config: ConfigDict, source: Source, given: str, control: int
) -> Candidates:
    """The classes of config.evaluation, or a file's captions and so many of the source's."""
    if given == CLASSES:
        measured = named_classes(config)
        classifier = text_classifier(tower.encoder, measured.classes, measured.templates)
        return Candidates(measured.classes, 0, np.asarray(classifier.weights, np.float32))
    texts = listed(workdir_path(given))
    order = np.random.default_rng(0).permutation(len(source))
    others: dict[str, None] = {}
    for index in order[: 20 * control].tolist():
        caption = source.caption(index).strip()
        if caption and caption not in texts and len(others) < control:
            others[caption] = None
    every = (*texts, *others)
    if len(every) < 2:
        raise UserError(f"--captions={given}: a caption is held against others: give --control")
    return Candidates(every, len(others), unit(texts_of(tower.encoder, every)))


def listed(path: Path) -> tuple[str, ...]:
    """The captions of a file: a CSV's column `caption`, else a line each; each once."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text))) if path.suffix == ".csv" else None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no text: {error}") from None
    lines = text.splitlines() if rows is None else [row.get("caption") or "" for row in rows]
    captions = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not captions:
        raise UserError(f"{path} holds no caption: a column `caption`, or a line each")
    return captions


def invert_captions(
    tower: Tower,
    some: Candidates,
    pictures: UInt8[np.ndarray, "n s s 3"],
    folder: Path,
    settings: dict[str, Any],
    steps: int,
    batch: int,
) -> list[dict[str, Any]]:
    """Searches a patch to each caption that has none yet; returns the rows of captions.json."""
    digest = hashlib.sha256("\n".join(some.texts).encode()).hexdigest()
    settings, rows = {**settings, "captions": digest}, []
    if (folder / CAPTIONS).is_file():
        content = read_json(folder / CAPTIONS, _SHAPE, "remove it, or name another --output")
        if content["settings"] != settings:
            raise UserError(
                f"{folder / CAPTIONS} is of other models, captions or flags: name another --output"
            )
        rows = content["captions"]
    left = range(len(rows), len(some.texts))
    for target, patch in zip(
        left, caption_patches(tower, some.units, left, pictures, steps, batch), strict=True
    ):
        rows.append(
            {
                "caption": some.texts[target],
                "control": target >= len(some.texts) - some.controls,
                "size": patch.size,
                "share": patch.share,
                "steps": patch.steps,
            }
        )
        for row, index in zip(rows, anomaly_index([row["size"] for row in rows]), strict=True):
            row["index"] = index
        content = {"settings": settings, "captions": rows}
        write_whole(folder / CAPTIONS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return rows


def in_lines(rows: Sequence[dict[str, Any]], most: int = 10) -> str:
    """The captions that need the smallest patches; an index above 2 is odd, and no verdict."""
    there = sorted((row for row in rows if row["size"] is not None), key=lambda row: row["size"])
    lines = [f"{len(there)} of {len(rows)} captions have a patch; the smallest:"]
    for row in there[:most]:
        index = "" if row["index"] is None else f"  index {row['index']:5.2f}"
        kind = "  control" if row["control"] else ""
        lines.append(f"  {row['share']:7.2%}{index}{kind}  {row['caption']}")
    return "\n".join(lines)
