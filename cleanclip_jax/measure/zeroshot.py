"""Zero-shot classification: class names put into prompts, and the prompts' embeddings averaged."""

from collections.abc import Sequence

import numpy as np

from cleanclip_jax.measure.encoder import Encoder
from cleanclip_jax.measure.features import texts_of
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.start.head import Head
from cleanclip_jax.text.prompts import fill

# Class names embedded at once, so that 1,000 classes of 80 prompts need no array of all of them.
NAMES_AT_ONCE = 128


def text_classifier(encoder: Encoder, names: Sequence[str], templates: Sequence[str]) -> Classifier:
    """Returns a unit embedding for each class name.

    Each template is filled and embedded, normalised, averaged over the templates and
    normalised again, as in CLIP (arXiv 2103.00020). Classes of one name have one embedding.
    """
    distinct = list(dict.fromkeys(names))
    rows = []
    for start in range(0, len(distinct), NAMES_AT_ONCE):
        some = distinct[start : start + NAMES_AT_ONCE]
        prompts = [fill(template, name) for name in some for template in templates]
        embeddings = unit(texts_of(encoder, prompts)).reshape(len(some), len(templates), -1)
        rows.append(unit(embeddings.mean(1)))
    embedded = np.concatenate(rows)
    at = {name: row for row, name in enumerate(distinct)}
    weights = embedded[[at[name] for name in names]]
    return Classifier(tuple(names), weights, None, True, f"text, {len(templates)} templates")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, in their own type."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def head_classifier(head: Head | None) -> Classifier | None:
    """A trained linear head as what classes are scored with; None of none."""
    if head is None or head.params is None:
        return None
    return Classifier(
        names=head.classes,
        weights=np.asarray(head.params["kernel"]).T,
        bias=np.asarray(head.params["bias"]),
        normalised=head.normalised,
        what=f"linear head on {'unit-length' if head.normalised else 'un-normalised'} features",
    )
