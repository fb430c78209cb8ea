"""The one training step: views, features, terms, gradients, update."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt8

from cleanclip_jax.losses.compare import PAIRS, gathered, normalise_rows
from cleanclip_jax.losses.terms import Context
from cleanclip_jax.models.clip import CLIP, encode_image, encode_image_train, encode_text
from cleanclip_jax.run.optimizer import MAX_LOGIT_SCALE
from cleanclip_jax.run.state import Fixed, Objective, State
from cleanclip_jax.sharding import copied_over, gather, scatter
from cleanclip_jax.views.normalise import normalise

Metrics: TypeAlias = dict[str, jax.Array]
Images: TypeAlias = Float[Array, "b views s s 3"] | UInt8[Array, "b views s s 3"]
Tokens: TypeAlias = Int[Array, "b views n"]
# (params, step, batch, table, mesh): the pictures that a batch shows, [b, views, s, s, 3]. Made
# inside the gradient: a trigger may be a parameter.
Views: TypeAlias = Callable[..., jax.Array]


def compute_loss(
    model: CLIP,
    objective: Objective,
    state: State,
    images: Images,
    tokens: Tokens,
    labels: Int[Array, " b"] | None = None,
    suspects: Bool[Array, " b"] | None = None,
    *,
    start: Mapping[str, Any] | None = None,
    artefacts: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Any], dict[str, Any]]]:
    """The weighted sum of the terms over the global batch.

    Args:
      state: its parameters may lie split over `fsdp`.
      images, tokens: pairs and, where `views` is 2, their augmented views beside them. Images of
        uint8 are normalised first.
      labels: classes of the originals, where a term needs them.
      suspects: the pairs that are suspected, where a term needs them.
      start: the frozen start's variables, where a term needs them.
      artefacts: arrays by the terms that need them.
      mesh: over whose devices the batch is split.

    Returns:
      the loss, and beside it the terms and what they log, the new batch statistics, the new memory.
    """
    params = gather(mesh, state.params)
    part = _model_of_a_part(model, objective, mesh)
    frozen = None if start is None else gather(mesh, start)
    artefacts = artefacts or {}
    encode = partial(_encode, part, objective, params, state.batch_stats, frozen, artefacts)
    if objective.chunks > 1:
        from cleanclip_jax.run.chunks import encode_in_chunks

        (outputs, layers), new_stats = encode_in_chunks(
            encode, (images, tokens), objective.chunks, mesh
        )
    else:
        (outputs, layers), new_stats = encode((images, tokens))
    batch_stats = state.batch_stats
    if objective.moves("visual") and not model.compute.bn_frozen:
        batch_stats = new_stats
    features = _by_name(outputs)
    unit = {name: normalise_rows(rows) for name, rows in outputs.items()}
    pairs = jnp.concatenate([unit[name] for name in ("image", "text") if name in unit], 1)
    names = [name for name in PAIRS if name in features]
    units = _by_name(unit) | {name: pairs[:, i] for i, name in enumerate(names)}
    scale = jnp.exp(params["logit_scale"])
    if objective.ring:
        from cleanclip_jax.losses.ring import ringed

        compare = ringed(units, scale, mesh)
    else:
        compare = gathered(units, scale, mesh, pairs)
    metrics: Metrics = {}
    memory: dict[str, Any] = dict(state.memory)
    loss = jnp.zeros((), features["image"].dtype)
    for name, term in objective.terms.items():
        before, counts = state.memory.get(name), name not in objective.resting
        if before is None and not counts:
            continue
        given = (features, units, compare, params, labels, before, state.step)
        context = Context(
            *(*given, {}, suspects, counts), artefact=artefacts.get(name), layers=layers
        )
        value, after = term.loss(context, **objective.options.get(name, {}))
        if counts:
            metrics |= {name: value, **context.metrics}
            loss = loss + objective.weights[name] * value
        if before is not None:
            memory[name] = jax.lax.stop_gradient(after)
    return loss, (metrics, batch_stats, memory)


def _model_of_a_part(model: CLIP, objective: Objective, mesh: Mesh | None) -> CLIP:
    """The model for what is encoded at once."""
    if objective.chunks == 1:
        return model
    from cleanclip_jax.run.chunks import model_of_a_part

    devices = 1 if mesh is None else mesh.devices.size
    return model_of_a_part(model, objective.chunks, devices, not objective.moves("visual"))


def _by_name(outputs: Mapping[str, Float[Array, "b views d"]]) -> dict[str, Float[Array, "b d"]]:
    """Features of each view under a name of its own: image, image_view, text, ..."""
    return {
        name + ("_view" if view else ""): rows[:, view]
        for name, rows in outputs.items()
        for view in range(rows.shape[1])
    }


def _encode(
    model: CLIP,
    objective: Objective,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    start: Mapping[str, Any] | None,
    artefacts: Mapping[str, Any],
    rows: tuple[Images, Tokens],
) -> tuple[tuple[dict[str, Float[Array, "b views d"]], dict[str, Any]], dict[str, Any]]:
    """Features of all views with the layers that a term needs, and new batch statistics."""
    images, tokens = rows
    if images.dtype == jnp.uint8:
        images = normalise(images, str(jnp.dtype(model.compute.dtype)))
    layers: dict[str, Any] = {}
    given = (model, objective, params, batch_stats, images)
    if "layers" in objective.needs:
        from cleanclip_jax.run.layers import encode_layers

        image, layers, new_stats = encode_layers(*given, artefacts)
    else:
        image, new_stats = _encode_images(*given)
    outputs = {"image": image}
    if "text" in objective.needs:
        outputs["text"] = _encode_texts(model, {"params": params}, tokens)
    if "start" in objective.needs:
        assert start is not None
        frozen = {"image_start": encode_image(model, start, images[:, 0])[:, None]}
        if "text" in objective.needs:
            frozen["text_start"] = _encode_texts(model, start, tokens[:, :1])
        outputs |= jax.lax.stop_gradient(frozen)
    return (outputs, layers), new_stats


def _encode_texts(
    model: CLIP, variables: Mapping[str, Any], tokens: Tokens
) -> Float[Array, "b views d"]:
    b, views = tokens.shape[:2]
    return encode_text(model, variables, tokens.reshape(b * views, -1)).reshape(b, views, -1)


def _encode_images(
    model: CLIP,
    objective: Objective,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: Float[Array, "b views s s 3"],
) -> tuple[Float[Array, "b views d"], dict[str, Any]]:
    """Features of every view, and the new batch statistics."""
    variables = {"params": params, "batch_stats": batch_stats}
    b, views = images.shape[:2]
    joint = images.reshape(b * views, *images.shape[2:])
    if not objective.moves("visual"):
        return encode_image(model, variables, joint).reshape(b, views, -1), batch_stats
    if not objective.separate_views:
        image, batch_stats = encode_image_train(model, variables, joint)
        return image.reshape(b, views, -1), batch_stats
    features = []
    for view in range(views):
        one, batch_stats = encode_image_train(model, variables, images[:, view])
        variables = {"params": params, "batch_stats": batch_stats}
        features.append(one)
    return jnp.stack(features, 1), batch_stats


def apply_gradients(
    optimizer: optax.GradientTransformation,
    state: State,
    gradients: Any,
    batch_stats: Any,
    memory: dict[str, Any] | None = None,
) -> State:
    """One update of the parameters that have gradients, and logit_scale clamped to [0, 4.6052]."""
    old = {name: state.params[name] for name in gradients}
    updates, opt_state = optimizer.update(gradients, state.opt_state, old)
    new: Any = optax.apply_updates(old, updates)
    if "logit_scale" in new:
        new["logit_scale"] = jnp.clip(new["logit_scale"], 0.0, MAX_LOGIT_SCALE)
    return State(state.step + 1, {**state.params, **new}, batch_stats, opt_state, memory or {})


def make_step(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    objective: Objective,
    *,
    mesh: Mesh | None = None,
    views: Views | None = None,
) -> Callable[[State, Fixed, Mapping[str, jax.Array]], tuple[State, Metrics]]:
    """Returns the jitted step: (state, fixed, batch) to (state, metrics). The old state is donated.

    The batch holds `images` uint8[b, views, s, s, 3], `tokens` int32[b, views, n] and, where a
    term needs them, `labels` int32[b] and `suspects` bool[b].

    Args:
      views: what is made of one picture a pair, which is uint8[b, 1, s, s, 3] then; the batch also
        holds `index` int32[b] and, if there is a trigger, `stamps` int32[b, 4]. In place of
        `images` the step may be given a table of all pictures, which `index` counts.
    """
    _model_of_a_part(model, objective, mesh)  # refuses what can't be parted

    def step(state: State, fixed: Fixed, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        def compute(part: dict[str, Any]) -> Any:
            params = {**state.params, **part}
            if views is None:
                images = batch["images"]
            else:
                images = views(params, state.step, batch, fixed.table, mesh)
                if images.dtype != jnp.uint8:  # of a learned trigger
                    images = normalise(images, str(jnp.dtype(model.compute.dtype)))
            now = State(state.step, params, state.batch_stats, None, state.memory)
            data = (images, batch["tokens"], batch.get("labels"), batch.get("suspects"))
            frozen = {"start": fixed.start, "artefacts": fixed.artefacts}
            return compute_loss(model, objective, now, *data, **frozen, mesh=mesh)

        (loss, (terms, batch_stats, memory)), gradients = jax.value_and_grad(compute, has_aux=True)(
            objective.moving(state.params)
        )
        gradients = scatter(mesh, gradients)
        metrics = {
            "loss": loss,
            **terms,
            "logit_scale": state.params["logit_scale"],
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": schedule(state.step),
        }
        new = apply_gradients(optimizer, state, gradients, batch_stats, memory)
        return scatter(mesh, new), metrics

    # Pinned, so that the state comes back as it went in and nothing compiles twice.
    placed = None if mesh is None else copied_over(mesh)
    # Parts of a state that is split have places of their own, which `scatter` names.
    split = mesh is not None and mesh.shape["fsdp"] > 1
    return jax.jit(step, donate_argnums=0, out_shardings=(None, placed) if split else placed)
