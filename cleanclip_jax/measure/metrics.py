"""Further metrics: a function of what a model sees of a labelled set, under a name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.estimates import Figure
from cleanclip_jax.measure.ranks import Classifier, unit
from cleanclip_jax.registry import Registry, in_words


@dataclass(frozen=True)
class Seen:
    """A labelled set's pictures as one model sees them.

    Attributes:
      labels: the class of each picture.
      clean, triggered: un-normalised features of the same pictures, without and with the trigger;
        no triggered ones where there is no attack.
      target: the attack's class, or None.
      classifier: of the set's classes.
    """

    labels: Int[np.ndarray, " n"]
    clean: Float32[np.ndarray, "n d"]
    triggered: Float32[np.ndarray, "n d"] | None
    target: int | None
    classifier: Classifier

    def scores(self, features: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n c"]:
        """What each class scores for features; the highest is the prediction."""
        classifier = self.classifier
        rows = unit(features) if classifier.normalised else features
        bias = 0 if classifier.bias is None else classifier.bias
        return np.asarray(rows @ classifier.weights.T + bias, np.float32)


Metric = Callable[[Seen], Figure | Mapping[str, Figure]]
METRICS: Registry[Metric] = Registry(
    "config.evaluation.metrics", {"zscore": "cleanclip_jax.measure.zscore:zscore"}
)


def metric(name: str) -> Callable[[Metric], Metric]:
    """Decorates f(Seen) → a figure, called `name`, or figures by name, called `name_THEIRS`.

    It is measured on every labelled set where config.evaluation.metrics names it.
    """
    return METRICS.register(name)


def custom_figures(
    metrics: Mapping[str, Metric], seen: Seen, taken: Iterable[str] = ()
) -> dict[str, Figure]:
    """What each of the metrics gives; none under a name that is `taken` already."""
    figures: dict[str, Figure] = {}
    for name, function in metrics.items():
        try:
            given = function(seen)
        except Exception as error:
            raise UserError(f"config.evaluation.metrics: {name}: {in_words(error)}") from error
        named = given if isinstance(given, Mapping) else {"": given}
        parts = {f"{name}_{part}".removesuffix("_"): one for part, one in named.items()}
        for key, figure in parts.items():
            if key in (*taken, *figures):
                raise UserError(
                    f"config.evaluation.metrics: {key!r} is another figure's name: name the "
                    "metric otherwise"
                )
            if not isinstance(figure, Figure):
                raise UserError(
                    f"config.evaluation.metrics: {key} gave {type(figure).__name__}, no Figure: "
                    "measure.estimates.share makes one"
                )
        figures |= parts
    return figures
