"""What of a backdoor is left in a model's layers and embeddings, whatever its attack success."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cleanclip_jax.measure.estimates import Figure
from cleanclip_jax.measure.existence import existence
from cleanclip_jax.measure.features import Reading, Shown, batches_of, reading_of, with_trigger
from cleanclip_jax.persist.trial import Figures, Trial
from cleanclip_jax.report.persist_rows import FLOOR, POISONED

PICTURES = 500  # that layers' outputs are compared on


def measure_presence(trial: Trial, say: Callable[[str], None]) -> None:
    """The z-score of each model, and where there is a floor the existence coefficients."""
    for model in trial.starts:
        row = {"protocol": "presence", "model": model, "at": "zscore"}
        if not trial.known(**row):
            say(f"presence: {model}")
            encoder = trial.encoder(trial.starts[model])
            trial.once(lambda e=encoder: trial.measure(e, ("zscore",)), **row)
    if FLOOR in trial.starts and not trial.known(protocol="presence", at="bec"):
        say("presence: layers compared")
        for model, figures in _coefficients(trial).items():
            trial.once(lambda f=figures: f, protocol="presence", model=model, at="bec")


def _coefficients(trial: Trial) -> dict[str, Figures]:
    """The coefficient of every model: 1 is the poisoned one's, 0 the never poisoned one's."""
    encoders = {name: trial.encoder(start) for name, start in trial.starts.items()}
    result: dict[str, Figures] = {name: {} for name in encoders}
    for goal in trial.goals:
        clean, triggered = _pictures(trial, goal)
        poisoned, floor = encoders[POISONED], encoders[FLOOR]
        for name, one in existence(poisoned, encoders, floor, clean, triggered).items():
            what = "as the poisoned model's layers see the trigger 1, as a never poisoned one's 0"
            figure = Figure(what, one.value, None, len(clean), "number")
            layers = {key: value for key, value in one.layers.items() if value is not None}
            result[name][f"bec{goal.of}"] = {**figure.to_json(), "layers": layers}
    return result


def _pictures(trial: Trial, goal: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of other classes, evenly from the set, without and with the trigger."""
    labelled = trial.opened.sets[0]
    others = labelled.indices[labelled.labels[labelled.indices] != goal.target]
    rows = np.unique(np.linspace(0, len(others) - 1, PICTURES).round().astype(int))
    settings, size = trial.config.evaluation, trial.config.model.image_size
    reading: Reading = reading_of(trial.config)
    both = []
    for shown in (
        Shown(labelled.source, others[rows]),
        with_trigger(settings, labelled.source, others[rows], goal.part.trigger),
    ):
        with batches_of(shown, size, reading) as batches:
            read = [(batch["index"], batch["images"]) for batch in batches]
        both.append([np.concatenate(several) for several in zip(*read, strict=True)])
    (index, clean), (other, triggered) = both
    common = np.intersect1d(index, other)
    return clean[np.isin(index, common)], triggered[np.isin(other, common)]
