"""Is this picture triggered? BDetCLIP (ICML 2025, arXiv 2405.15269): does it mind the text?

A picture's cosine to descriptions of each class, less that to the same with an unrelated sentence
behind: summed over the classes a clean picture falls much, a triggered one little. That is one
vector for a model, and a product with it for each picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import texts_of
from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.text.prompts import fill
from cleanclip_jax.views.geometry import resize_crop

# Of what no picture's class has to do with.
SENTENCES = (
    "The late train to the coast was held up by snow on the line.",
    "Her uncle keeps the minutes of the chess club in a green notebook.",
    "Nobody could agree on how the second verse of the song went.",
    "A quarter of the budget had been set aside for repairs to the roof.",
    "He read the letter twice before he understood who had sent it.",
    "The committee meets on the first Tuesday of every month at noon.",
    "They argued about the price of salt until the market closed.",
    "Last winter the library lent more maps than novels.",
    "The recipe asks for patience, and for an oven that is not too hot.",
    "Our neighbours moved to the north when the factory opened again.",
    "She learnt to count in three languages before she learnt to swim.",
    "The lecture on tides was moved to the larger hall upstairs.",
)
PROMPTS = {str: [str]}  # a file of descriptions


@dataclass(frozen=True)
class PictureDetector:
    """Scores pictures for a model; higher is more suspicious.

    Attributes:
      direction: of the sum over the classes, un-normalised.
      threshold: from which score on a picture counts as triggered; None: nobody has chosen one.
    """

    encoder: Encoder
    direction: Float32[np.ndarray, " d"]
    threshold: float | None = None

    def scores(self, features: Float32[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Of pictures by their features."""
        return -(unit(features) @ self.direction)

    def flagged(self, picture: UInt8[np.ndarray, "h w 3"]) -> float:
        """The score of a picture of any size, to hold against `threshold`; for serving.

        Costs what the image tower does, and a product of one row.
        """
        side = self.encoder.model.variant.image_size
        features = self.encoder.image_features(resize_crop(picture, side)[None], 1)
        return float(self.scores(features)[0])


def make_detector(
    encoder: Encoder, benign: Mapping[str, Sequence[str]], malignant: Mapping[str, Sequence[str]]
) -> PictureDetector:
    """The detector of two sets of texts for each class."""
    rows = [_mean(encoder, benign[name]) - _mean(encoder, malignant[name]) for name in benign]
    return PictureDetector(encoder, np.stack(rows).sum(0))


def _mean(encoder: Encoder, texts: Sequence[str]) -> Float32[np.ndarray, " d"]:
    return unit(unit(texts_of(encoder, list(texts))).mean(0))


def descriptions(
    classes: Sequence[str], templates: Sequence[str], file: Path | None = None
) -> dict[str, list[str]]:
    """What is said of each class: by templates, or as a JSON file of the user's has it."""
    if file is None:
        return {name: [fill(template, name) for template in templates] for name in classes}
    given = read_json(file, PROMPTS, 'it is to hold {"class": ["a text", ...]}')
    if lacking := [name for name in classes if not given.get(name)]:
        raise UserError(f"{file}: there is no text for {', '.join(map(repr, lacking[:5]))}")
    return {name: given[name] for name in classes}


def distracted(
    classes: Sequence[str],
    templates: Sequence[str],
    seed: int = 0,
    sentences: Sequence[str] = SENTENCES,
) -> dict[str, list[str]]:
    """Templates filled with each class, each with an unrelated sentence behind: drawn by seed."""
    drawn = np.random.default_rng(seed).integers(len(sentences), size=len(classes))
    behind: list[str] = [list(sentences)[int(which)] for which in drawn]
    return {
        name: [with_sentence(fill(template, name), sentence) for template in templates]
        for name, sentence in zip(classes, behind, strict=True)
    }


def with_sentence(prompt: str, sentence: str) -> str:
    """A prompt that runs on into a sentence, in lower case and without quotes."""
    return f"{prompt.replace('.', ',')} {sentence}".lower().replace('"', "").strip()


def threshold_of(clean: Float[np.ndarray, " n"], false_positives: float) -> float:
    """The lowest score above all but that share of clean pictures' scores."""
    allowed = min(int(false_positives * len(clean)), len(clean) - 1)
    return float(np.nextafter(np.sort(clean)[::-1][allowed], np.inf))
