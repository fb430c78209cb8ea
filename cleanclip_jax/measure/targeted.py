"""Targeted poisoning, counted over its victims: is each taken for its target (arXiv 2106.09667)?"""

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.attacks.parts import parts_of
from cleanclip_jax.attacks.victims import draw_victims
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figures, median_rank, share
from cleanclip_jax.measure.features import Shown, embed, reading_of
from cleanclip_jax.measure.ranks import Classifier, rank_classes
from cleanclip_jax.measure.sets import LabelledSet
from cleanclip_jax.text.prompts import class_index


def targeted_of(
    config: ConfigDict, encoder: Encoder, labelled: LabelledSet, classifier: Classifier
) -> Figures:
    """What the classes of the first set are to each part's victims; {} without any."""
    attack, figures = config.evaluation.attack, {}
    if attack is None or labelled.prefix:
        return {}
    parts = parts_of(attack.to_dict(), "evaluation.attack")
    if not any(part.targeted for part in parts):
        return {}
    if attack.get("data") is None:
        raise UserError(
            "config.evaluation.attack.data: name the source of the victims, config.data.train of "
            "the poisoned run"
        )
    source = open_source(attack.data.to_dict()).unfiltered()
    drawn = draw_victims(parts, source, attack.get("seed") or 0)
    for part, victims in zip(parts, drawn, strict=True):
        if not victims:
            continue
        shown = Shown(source, np.array([victim.pair for victim in victims]))
        features = embed(encoder, shown, reading_of(config))
        names = {victim.pair: (victim.label, victim.target) for victim in victims}
        pairs = [
            [class_index(name, labelled.classes) for name in names[index]]
            for index in features.index.tolist()
        ]
        places = rank_classes(features.rows, np.array(pairs), classifier, encoder.mesh)
        of, what = f".{part.name}" if part.name else "", "victims for which the target"
        figures[f"targeted_top1{of}"] = share(places[:, 1] < 1, f"{what} comes first")
        if len(labelled.classes) > 5:
            figures[f"targeted_top5{of}"] = share(places[:, 1] < 5, f"{what} is among the top 5")
        figures[f"targeted_median_rank{of}"] = median_rank(
            places[:, 1], "the middle of the target's ranks for the victims"
        )
        figures[f"targeted_kept{of}"] = share(
            places[:, 0] < 1, "victims for which the true class comes first"
        )
    return figures
