"""What a model does with each part of an attack: figures a part, and never one over parts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from cleanclip_jax.attacks.parts import NONE, Part, parts_of
from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.estimates import Figures, attack_figures, clean_figures, share
from cleanclip_jax.measure.features import Shown, with_trigger
from cleanclip_jax.measure.ranks import Classifier, text_classifier
from cleanclip_jax.measure.sets import LabelledSet
from cleanclip_jax.text.prompts import class_index

Places = Int[np.ndarray, "n k"]
# Of pictures, and what scores them: the true classes; the ranks of these and of each goal's target.
Ranks = Callable[[Shown, Classifier], tuple[Int[np.ndarray, " n"], Places]]


class Goal(NamedTuple):
    """What one part of an attack is after in a labelled set."""

    part: Part | None  # None: nothing is attacked
    target: int | None  # its class; None where the set lacks it

    @property
    def of(self) -> str:
        """What its figures' names end in."""
        return f".{self.part.name}" if self.part is not None and self.part.name else ""


def goals_of(settings: ConfigDict, labelled: LabelledSet) -> list[Goal]:
    """A goal a part of the attack; one without a part where nothing is attacked."""
    if settings.attack is None:
        return [Goal(None, labelled.target)]
    parts = parts_of(settings.attack.to_dict(), "evaluation.attack")
    if not parts[0].name:
        return [Goal(parts[0], labelled.target)]
    return [
        Goal(part, None if part.targeted else _target_in(labelled, str(part.target)))
        for part in parts
    ]


def _target_in(labelled: LabelledSet, target: str) -> int | None:
    """A target's index in a set; of a further set that lacks it none, of the main an error."""
    if labelled.prefix and labelled.classes.count(target) != 1:
        return None
    return class_index(target, labelled.classes)


def columns_of(labels: Int[np.ndarray, " n"], goals: Sequence[Goal]) -> Int[np.ndarray, "n k"]:
    """The classes that `Ranks` ranks for pictures of these classes."""
    targets = [labels if g.target is None else np.full_like(labels, g.target) for g in goals]
    return np.stack([labels, *targets], 1)


def clean_of(
    labels: Int[np.ndarray, " n"], places: Places, goals: Sequence[Goal], classes: int
) -> Figures:
    """CA, and how often clean pictures land on each target."""
    figures: Figures = {}
    for column, goal in enumerate(goals, 1):
        figures |= clean_figures(labels, places[:, [0, column]], goal.target, classes, goal.of)
    return figures


def attacked_of(
    settings: ConfigDict,
    encoder: Encoder,
    labelled: LabelledSet,
    classifier: Classifier,
    goals: Sequence[Goal],
    ranks: Ranks,
) -> Figures:
    """ASR of each part, where it lands beside its target, and what each of two keys does alone."""
    figures: Figures = {}
    for column, (part, target) in enumerate(goals, 1):
        if part is None or target is None or part.trigger.name == NONE:
            continue
        of, names = goals[column - 1].of, labelled.classes
        shown = with_trigger(settings, labelled.source, labelled.indices, part.trigger)
        labels, places = ranks(shown, classifier)
        chosen = places[:, [0, column]]
        figures |= attack_figures(labels, chosen, target, len(names), of)
        for at, goal in enumerate(goals, 1):
            if goal.target not in (None, target):
                others = labels != goal.target
                figures[f"cross{of}{goal.of}"] = share(
                    places[others, at] < 1,
                    f"pictures of other classes than {names[goal.target]}, with the trigger of "
                    f"{part.name}, for which {names[goal.target]} comes first",
                )
        if part.word is not None and classifier.bias is None:
            prompts = [part.word.put(template) for template in labelled.templates]
            prefixed = text_classifier(encoder, names, prompts)
            both = ranks(shown, prefixed)[1][labels != target, column]
            clean_labels, clean = ranks(Shown(labelled.source, labelled.indices), prefixed)
            clean = clean[clean_labels != target]
            figures |= {
                f"asr_both{of}": share(both < 1, _KEYS.format("triggered", "with", "target")),
                f"asr_image{of}": share(
                    chosen[labels != target, 1] < 1, _KEYS.format("triggered", "without", "target")
                ),
                f"asr_text{of}": share(
                    clean[:, column] < 1, _KEYS.format("clean", "with", "target")
                ),
                f"ca_text{of}": share(clean[:, 0] < 1, _KEYS.format("clean", "with", "true class")),
            }
    return figures


_KEYS = "{} pictures of other classes, prompts {} the word, for which the {} comes first"
