"""The terms of the loss. A new defence is a row of `TERMS` and a few lines (docs/extend.md)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from cleanclip_jax.errors import unknown
from cleanclip_jax.losses.compare import Compare, normalise_rows
from cleanclip_jax.registry import Registry

Memory: TypeAlias = Any  # a tree of arrays
NEEDS = ("text", "view", "start", "label", "head", "suspect", "layers")


@dataclass(frozen=True)
class Context:
    """What a term computes with, over the global batch.

    Attributes:
      features: un-normalised features [b, d] by name: image; text, image_view, text_view,
        image_start and text_start where a term needs them. Those of the start are of the first
        view, by the frozen encoders that the run began with, and without gradient.
      units: the same at unit length.
      info_nce: of (queries, keys), names of `units` or rows of the term's own; a scalar.
      params: all parameters; `params["head"]` where a term needs it.
      labels: int32[b], classes of the pictures, where a term needs them.
      memory: the term's, as the step before left it.
      step: updates so far, int32[].
      metrics: scalars by name, to be logged; a term adds its own.
      suspects: bool[b], the pairs of config.data.suspects, where a term needs them.
      counts: whether the term's value is part of this step's loss. Where it rests (`Term.resting`)
        only its memory is of use, and what else it computes the compiler leaves out.
      artefact: the arrays of the term's, where it has one.
      layers: where a term needs them, what the image tower's layers give for the first view and
        for the same with the artefact's trigger: {"clean" | "triggered": {layer: [b, ...]}}.
    """

    features: Mapping[str, jax.Array]
    units: Mapping[str, jax.Array]
    info_nce: Compare
    params: Mapping[str, Any]
    labels: Int[Array, " b"] | None
    memory: Memory
    step: Int[Array, ""]
    metrics: dict[str, jax.Array]
    suspects: Bool[Array, " b"] | None = None
    counts: bool = True
    artefact: Any = None
    layers: Mapping[str, Mapping[str, jax.Array]] = field(default_factory=dict)


class Artefact(NamedTuple):
    """What a job of its own has made for a term.

    Attributes:
      arrays: a tree, which the step is given and neither changes nor saves.
      path, digest: where it lies, and of its files; they stand in inputs.json.
      start: the digest of the start that it was made of; None: nobody knows.
    """

    arrays: Any
    path: str
    digest: str
    start: str | None


def _nothing(width: int, **options: Any) -> Memory:
    return None


def _always(epoch: int, **options: Any) -> frozenset[str]:
    return frozenset()


def _anything(batch_size: int, **options: Any) -> None:
    pass


@dataclass(frozen=True)
class Term:
    """A part of the loss.

    Attributes:
      loss: of a Context and the term's options, which config.objective gives by name: a scalar
        and the term's memory after the step.
      needs: of `NEEDS`: text (captions are encoded), view (a second view of both), start (features
        by the frozen start; of captions where those are encoded), label (classes), head (a linear
        head on image features), suspect (which pairs are suspected), layers (of the image tower,
        without and with a trigger).
      memory: what is kept between steps, at its beginning: of the features' width, the same
        options and, if it has such a parameter, the run's `seed`. It is part of the state: saved,
        split over devices, and restored exactly.
      resting: of an epoch, counted from 1, and the options: the terms that do not count in it.
      check: of the batch size and the options: refuses what can't be.
      artefact: opens what a job has made for it: of the same options.
      triggered: of the artefact's arrays and normalised pictures: these with the trigger on, for
        a term that needs layers. Layers are those that `arrays["critical"]` names.
      note: what a user has to know of a model that was trained with it; logged as a run begins.
    """

    loss: Callable[..., tuple[jax.Array, Memory]]
    needs: frozenset[str] = frozenset({"text"})
    memory: Callable[..., Memory] = _nothing
    note: str = ""
    resting: Callable[..., frozenset[str]] = _always
    check: Callable[..., None] = _anything
    artefact: Callable[..., Artefact] | None = None
    triggered: Callable[[Any, jax.Array], jax.Array] | None = None

    def __post_init__(self):
        for need in self.needs:
            if need not in NEEDS:
                raise unknown("a term's needs", need, NEEDS)


def cross_modal(c: Context) -> tuple[jax.Array, Memory]:
    """Images against texts, both ways (CLIP, arXiv 2103.00020; MMCL in arXiv 2303.03323)."""
    return (c.info_nce("image", "text") + c.info_nce("text", "image")) / 2, None


def in_modal(c: Context) -> tuple[jax.Array, Memory]:
    """Originals against augmented views inside each modality, one way (CleanCLIP's SS term)."""
    return (c.info_nce("image", "image_view") + c.info_nce("text", "text_view")) / 2, None


def perturb(c: Context, threshold: float = 2.15) -> tuple[jax.Array, Memory]:
    """Pushes each tower's embeddings away from the frozen start's (PAR, arXiv 2412.00727).

    Minus half the sum, over both towers, of the squared distance to the start's embedding of the
    same input, averaged over the global batch; a tower that is beyond the threshold adds nothing.
    Logs both means, and whether each is beyond.

    Args:
      threshold: of a mean squared distance, 0 to 4; 2.15 is a mean cosine of -0.075.
    """
    loss = jnp.zeros((), c.units["image"].dtype)
    for name in ("image", "text"):
        distance = ((c.units[name] - c.units[f"{name}_start"]) ** 2).sum(-1).mean()
        above = distance > threshold
        c.metrics.update({f"perturb_{name}": distance, f"perturb_{name}_above": above})
        loss = loss - jnp.where(above, 0.0, distance) / 2
    return loss, None


def others(c: Context) -> tuple[jax.Array, Memory]:
    """`cross_modal` among the pairs that are not suspected; 0 where all of a batch are."""
    assert c.suspects is not None
    among = ~c.suspects
    forth, back = (c.info_nce(*pair, among) for pair in (("image", "text"), ("text", "image")))
    return (forth + back) / 2, None


def unlearn(c: Context, target: float = 0.0) -> tuple[jax.Array, Memory]:
    """Brings the cosine of suspected pairs to -target: the mean of (cosine + target)², or 0.

    As in the original's code, where target is -1, which pulls the suspects together: here it is 0
    ("unlearning's target" in docs/fidelity.md).
    """
    assert c.suspects is not None
    apart = ((c.units["image"] * c.units["text"]).sum(-1) + target) ** 2
    count = c.suspects.sum()
    c.metrics["suspects"] = count
    return jnp.where(c.suspects, apart, 0.0).sum() / jnp.maximum(count, 1), None


def crossed(c: Context) -> tuple[jax.Array, Memory]:
    """Images against the texts' views and texts against the images', one way each (SafeCLIP)."""
    return (c.info_nce("image", "text_view") + c.info_nce("text", "image_view")) / 2, None


def classification(c: Context, normalised: bool = False) -> tuple[jax.Array, Memory]:
    """Mean cross-entropy of a linear head on image features; logs the batch's accuracy.

    Args:
      normalised: whether the head sees features of unit length (CLIP_benchmark's linear probe)
        or as they are (the paper's).
    """
    assert c.labels is not None
    logits = head_logits(c.params["head"], c.features["image"], normalised)
    c.metrics["accuracy"] = (logits.argmax(-1) == c.labels).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, c.labels).mean(), None


TERMS: Registry[Term] = Registry(
    "config.objective",
    {
        "cross_modal": Term(cross_modal),
        "in_modal": Term(in_modal, needs=frozenset({"text", "view"})),
        "perturb": Term(
            perturb,
            needs=frozenset({"text", "start"}),
            note="embeddings stored from the start no longer fit this run's model: make them anew",
        ),
        "others": Term(others, needs=frozenset({"text", "suspect"})),
        "unlearn": Term(unlearn, needs=frozenset({"text", "suspect"})),
        "matched": "cleanclip_jax.losses.pools:MATCHED",
        "nearest_in_modal": "cleanclip_jax.losses.pools:NEAREST_IN_MODAL",
        "crossed": Term(crossed, needs=frozenset({"text", "view"})),
        "align": "cleanclip_jax.losses.align:ALIGN",
        "preserve": "cleanclip_jax.losses.align:PRESERVE",
        "classification": Term(classification, needs=frozenset({"label", "head"})),
    },
)


def read_objective(
    settings: Mapping[str, Any],
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Weights and options of the registered terms, as config.objective gives them.

    A term has a number, its weight, or a dictionary of its weight and its options.
    """
    weights: dict[str, float] = {}
    options: dict[str, dict[str, Any]] = {}
    for name in TERMS:
        value = settings.get(name, 0.0)
        if isinstance(value, Mapping):
            options[name] = {key: v for key, v in value.items() if key != "weight"}
            value = value.get("weight", 1.0)
        weights[name] = float(value)
    if settings.get("normalise_features"):
        options.setdefault("classification", {})["normalised"] = True
    return weights, options


Head: TypeAlias = Mapping[str, jax.Array]


def init_head(key: jax.Array, features: int, classes: int, dtype: str = "float32") -> Head:
    """A fresh head: `kernel` [features, classes] and `bias` [classes], as torch draws a Linear.

    Uniform within ±1/sqrt(features), which the paper's supervised finetuning starts from.
    """
    bound = features**-0.5
    keys = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(keys[0], (features, classes), dtype, -bound, bound),
        "bias": jax.random.uniform(keys[1], (classes,), dtype, -bound, bound),
    }


def head_logits(head: Head, features: Float[Array, "b d"], normalised: bool) -> Float[Array, "b c"]:
    """Scores of each class; `normalised`: of features at unit length."""
    if normalised:
        features = normalise_rows(features)
    # In the features' precision throughout, as the contrastive logits are.
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(features, head["kernel"], precision=highest) + head["bias"][None]
