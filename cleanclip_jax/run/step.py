"""The one training step: encode, compare, differentiate, update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from cleanclip_jax.losses.classification import classification, head_logits
from cleanclip_jax.losses.compare import TERMS, Embeddings, gathered, normalise_rows
from cleanclip_jax.losses.ring import ringed
from cleanclip_jax.models.clip import CLIP, encode_image, encode_image_train, encode_text
from cleanclip_jax.run.chunks import encode_in_chunks, model_of_a_part
from cleanclip_jax.run.optimizer import MAX_LOGIT_SCALE
from cleanclip_jax.run.views import DeviceViews
from cleanclip_jax.sharding import copied_over, gather, scatter
from cleanclip_jax.views.normalise import normalise

Metrics = dict[str, jax.Array]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "batch_stats", "opt_state"],
    meta_fields=[],
)
@dataclass
class State:
    """All that training changes: arrays, or their shapes. `step` counts the updates, int32[]."""

    step: Any
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: Any


# Which top-level parts of the parameters move; the others stay as they are, bit for bit.
TRAINABLE = {
    "all": ("visual", "text", "logit_scale", "head"),
    "visual": ("visual", "head"),
    "head": ("head",),
}


@dataclass(frozen=True)
class Objective:
    """What a run minimises, and by moving what.

    Attributes:
      weights: by term name; a term of weight 0 is left out.
      separate_views: a forward for each view instead of a joint one, so that batch norm sees
        originals and views apart (fidelity row 13).
      normalised_head: whether the head sees features of unit length.
      trainable: a name of `TRAINABLE`. With "head" the image tower runs in evaluation mode.
      chunks: parts that the batch is encoded in, one after another, for the memory of one.
      ring: whether the terms compare in a ring, for memory that grows with the batch and not
        with its square.
    """

    weights: Mapping[str, float]
    separate_views: bool = False
    normalised_head: bool = False
    trainable: str = "all"
    chunks: int = 1
    ring: bool = False

    @property
    def contrastive(self) -> dict[str, float]:
        """The weights of the terms that compare embeddings, without those of 0."""
        return {name: self.weights[name] for name in TERMS if self.weights.get(name)}

    @property
    def supervised(self) -> float:
        """The weight of the head's cross-entropy."""
        return self.weights.get("classification", 0.0)

    @property
    def frozen_images(self) -> bool:
        """Whether the image tower stays as it is, and so runs in evaluation mode."""
        return "visual" not in TRAINABLE[self.trainable]


def moving(params: Mapping[str, Any], trainable: str) -> dict[str, Any]:
    """The part of the parameters that training moves."""
    return {name: params[name] for name in TRAINABLE[trainable] if name in params}


def fresh_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    trainable: str = "all",
) -> State:
    """A state at step 0 with fresh optimizer moments (fidelity row 5)."""
    params = variables["params"]
    step = jnp.zeros((), jnp.int32)
    moments = optimizer.init(moving(params, trainable))
    return State(step, params, variables.get("batch_stats", {}), moments)


def objective(
    model: CLIP,
    asked: Objective,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: Float[Array, "b views s s 3"] | UInt8[Array, "b views s s 3"],
    tokens: Int[Array, "b views n"],
    labels: Int[Array, " b"] | None = None,
    *,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Any]]]:
    """The weighted sum of the terms over the global batch.

    Args:
      params: may lie split over `fsdp`.
      images, tokens: pairs and, where `views` is 2, their augmented views beside them. Images of
        uint8 are normalised first.
      labels: classes of the originals; only the supervised term asks for them.
      mesh: over whose devices the batch is split.

    Returns:
      the loss, and beside it the terms and the new batch statistics.
    """
    params = gather(mesh, params)
    devices = 1 if mesh is None else mesh.devices.size
    part = model_of_a_part(model, asked.chunks, devices, asked.frozen_images)
    encode = partial(_features, part, asked, params, batch_stats)
    (image, text), new_stats = encode_in_chunks(encode, (images, tokens), asked.chunks, mesh)
    if not (model.compute.bn_frozen or asked.frozen_images):
        batch_stats = new_stats
    metrics: Metrics = {}
    if text is not None:
        metrics |= _contrastive_terms(asked, image, text, jnp.exp(params["logit_scale"]), mesh)
    if asked.supervised:
        assert labels is not None
        logits = head_logits(params["head"], image[:, 0], asked.normalised_head)
        metrics["classification"] = classification(logits, labels)
        metrics["accuracy"] = (logits.argmax(-1) == labels).mean()
    terms = {name: term for name, term in metrics.items() if name in asked.weights}
    zero = jnp.zeros((), image.dtype)
    loss = sum((asked.weights[name] * term for name, term in terms.items()), zero)
    return loss, (metrics, batch_stats)


def _features(
    model: CLIP,
    asked: Objective,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    rows: tuple[jax.Array, jax.Array],
) -> tuple[tuple[jax.Array, jax.Array | None], dict[str, Any]]:
    """Features [b, views, d] of images and, where a term compares, of texts; new statistics."""
    images, tokens = rows
    if images.dtype == jnp.uint8:
        images = normalise(images, str(jnp.dtype(model.compute.dtype)))
    image, new_stats = _image_features(model, asked, params, batch_stats, images)
    if not asked.contrastive:
        return (image, None), new_stats
    b, views = tokens.shape[:2]
    text = encode_text(model, {"params": params}, tokens.reshape(b * views, -1))
    return (image, text.reshape(b, views, -1)), new_stats


def _image_features(
    model: CLIP,
    asked: Objective,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: Float[Array, "b views s s 3"],
) -> tuple[Float[Array, "b views d"], dict[str, Any]]:
    """Features of every view, and the new batch statistics."""
    variables = {"params": params, "batch_stats": batch_stats}
    b, views = images.shape[:2]
    joint = images.reshape(b * views, *images.shape[2:])
    if asked.frozen_images:
        return encode_image(model, variables, joint).reshape(b, views, -1), batch_stats
    if not asked.separate_views:
        image, batch_stats = encode_image_train(model, variables, joint)
        return image.reshape(b, views, -1), batch_stats
    features = []
    for view in range(views):
        one, batch_stats = encode_image_train(model, variables, images[:, view])
        variables = {"params": params, "batch_stats": batch_stats}
        features.append(one)
    return jnp.stack(features, 1), batch_stats


def _contrastive_terms(
    asked: Objective,
    image: Float[Array, "b views d"],
    text: Float[Array, "b views d"],
    scale: Float[Array, ""],
    mesh: Mesh | None,
) -> Metrics:
    own = jnp.concatenate([normalise_rows(image), normalise_rows(text)], 1)  # [b, 2 views, d]
    order = (0, 1) if image.shape[1] == 1 else (0, 2, 1, 3)

    def named(rows: jax.Array) -> Embeddings:
        return Embeddings(*(rows[:, i] for i in order))

    if asked.ring:
        compare = ringed(named(own), scale, mesh)
    else:
        # One gather of all embeddings, here and nowhere else: each device keeps its own rows as
        # queries and sees everyone's as keys, with exact gradients through it (fidelity row 14).
        everyone = own
        if mesh is not None:
            everyone = jax.lax.with_sharding_constraint(own, copied_over(mesh))
        compare = gathered(named(own), named(everyone), scale)
    return {name: TERMS[name](compare) for name in asked.contrastive}


def apply_gradients(
    optimizer: optax.GradientTransformation, state: State, gradients: Any, batch_stats: Any
) -> State:
    """One update of the parameters that have gradients, and logit_scale clamped to [0, 4.6052]."""
    old = {name: state.params[name] for name in gradients}
    updates, opt_state = optimizer.update(gradients, state.opt_state, old)
    new: Any = optax.apply_updates(old, updates)
    if "logit_scale" in new:
        new["logit_scale"] = jnp.clip(new["logit_scale"], 0.0, MAX_LOGIT_SCALE)
    return State(state.step + 1, {**state.params, **new}, batch_stats, opt_state)


def make_step(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    asked: Objective,
    *,
    mesh: Mesh | None = None,
    views: DeviceViews | None = None,
) -> Callable[[State, Mapping[str, jax.Array]], tuple[State, Metrics]]:
    """Returns the jitted step: (state, batch) to (state, metrics). The old state is donated.

    The batch holds `images` uint8[b, views, s, s, 3], `tokens` int32[b, views, n] and, for the
    supervised term, `labels` int32[b].

    Args:
      views: what is made of one picture a pair, which is uint8[b, 1, s, s, 3] then; the batch also
        holds `index` int32[b] and, if there is a trigger, `stamps` int32[b, 4]. In place of
        `images` it may have a `table` uint8[n, s, s, 3] of all pictures, which `index` counts.

    Raises:
      UserError: the batch can't be encoded in so many chunks.
    """
    devices = 1 if mesh is None else mesh.devices.size
    model_of_a_part(model, asked.chunks, devices, asked.frozen_images)

    def step(state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        def compute(part: dict[str, Any]) -> Any:
            params = {**state.params, **part}
            data = (images, batch["tokens"], batch.get("labels"))
            return objective(model, asked, params, state.batch_stats, *data, mesh=mesh)

        images = batch["images"] if views is None else views(state.step, batch, mesh)
        (loss, (terms, batch_stats)), gradients = jax.value_and_grad(compute, has_aux=True)(
            moving(state.params, asked.trainable)
        )
        gradients = scatter(mesh, gradients)
        metrics = {
            "loss": loss,
            **terms,
            "logit_scale": state.params["logit_scale"],
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": schedule(state.step),
        }
        return scatter(mesh, apply_gradients(optimizer, state, gradients, batch_stats)), metrics

    # Pinned, so that the state comes back as it went in and nothing compiles twice.
    placed = None if mesh is None else copied_over(mesh)
    # Parts of a state that is split have places of their own, which `scatter` names.
    split = mesh is not None and mesh.shape["fsdp"] > 1
    return jax.jit(step, donate_argnums=0, out_shardings=(None, placed) if split else placed)
