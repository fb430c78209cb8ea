"""Cuts the small files of golden values, for the tests, out of the large ones.

    python tests/golden/cut.py FOLDER [badclip.npz ...]

FOLDER has attacks_golden.npz, defences_golden.npz and detectors.npz: what the published code of
attacks, defences and detectors computes. Without names all of the files are written.
"""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Cut(NamedTuple):
    """A file, or a part of one.

    Attributes:
      keys: a pattern of those that are taken.
      but: a pattern of those of them that are not.
      drop: a pattern of what keys lose.
      sampled: of the tensors of an optimisation at most so many elements stay.
      single: a pattern of the keys whose float64 become float32.
      texts: whether texts become JSON in bytes.
    """

    output: str
    source: str
    keys: str
    but: str = "$"
    drop: str = "$"
    sampled: int | None = None
    single: str = "$"
    texts: bool = False


_SCORES = "(kdist|slof|lid|dao)/({0}-.*|{1})/score|(iforest/{0}-image-seeded|clip_score/{0})/score"
_SCORES += "|safeclip/{0}/(?!params).*|inputs/({0}|{1})/.*|metrics/{0}-.*/.*"
_SINGLE = ".*/(score|clean_probability|omega)"
_MODEL = r"badclip\|vit\|size=32\|patch=6\|place=middle\|row=col=13\|"
CUTS = (
    Cut(
        "attacks.npz",
        "attacks_golden.npz",
        r"(nashville|patch_file)\|.*|picture_blend\|(pattern|badclip\|.*)",
    ),
    Cut("zscore.npz", "attacks_golden.npz", r"zscore\|.*", drop=r"zscore\|"),
    Cut("existence.npz", "attacks_golden.npz", r"bec\|.*", drop=r"bec\|"),
    Cut("reactivation.npz", "attacks_golden.npz", r"reactivation\|.*", drop=r"reactivation\|"),
    # Without the positives' pictures: the model's embeddings of pictures are other files' matter.
    Cut(
        "badclip.npz",
        "attacks_golden.npz",
        r"badclip\|.*",
        but=".*positive_pictures",
        drop=rf"({_MODEL})?(badclip\|)?",
    ),
    Cut("par.npz", "defences_golden.npz", "par/.*", drop="par/", sampled=512),
    Cut("unlearn.npz", "defences_golden.npz", "unlearn/.*", drop="unlearn/"),
    Cut(
        "pools.npz", "defences_golden.npz", "(roclip|safeclip|removal)/.*", ".*/published_rates/.*"
    ),
    Cut("shrink.npz", "defences_golden.npz", "shrink/.*", drop="shrink/"),
    Cut("inversion.npz", "defences_golden.npz", "invertune/.*"),
    Cut(
        "inversion.npz",
        "detectors.npz",
        "(decree|inversion)/.*",
        but=".*/params",
        single="decree/first/.*",
    ),
    Cut(
        "detectors_a.npz",
        "detectors.npz",
        _SCORES.format("a", "reference|ties|two_ranks") + "|(abl|bdetclip)/.*",
        but="abl/a/params|.*/printed",
        single=_SINGLE,
        texts=True,
    ),
    Cut("detectors_b.npz", "detectors.npz", _SCORES.format("b", "whole"), single=_SINGLE),
)


def sample(values: np.ndarray, elements: int) -> np.ndarray:
    """At most so many elements of a tensor, evenly spread over it."""
    flat = values.reshape(-1)
    return flat[:: -(-flat.size // elements)]


def taken(cut: Cut, folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a cut, by their new names."""
    arrays = {}
    with np.load(folder / cut.source) as large:
        for name in large.files:
            if not re.fullmatch(cut.keys, name) or re.fullmatch(cut.but, name):
                continue
            values = large[name]
            if cut.sampled is not None and ("/after/" in name or "/grad_step" in name):
                values = sample(values, cut.sampled)
            if values.dtype == np.float64 and re.fullmatch(cut.single, name):
                values = values.astype(np.float32)
            if cut.texts and values.dtype.kind == "U":
                text = json.dumps(values.tolist()) if values.ndim else str(values)
                values = np.frombuffer(text.encode(), np.uint8)
            arrays[re.sub(f"^({cut.drop})", "", name, count=1)] = values
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    outputs = list(dict.fromkeys(cut.output for cut in CUTS))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(outputs)}")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    for output in args.names or outputs:
        arrays: dict[str, np.ndarray] = {}
        for cut in CUTS:
            if cut.output == output:
                arrays |= taken(cut, args.folder)
        np.savez_compressed(args.into / output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
