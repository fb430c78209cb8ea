"""The one training step: encode, compare, differentiate, update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from cleanclip_jax.device.normalise import normalise
from cleanclip_jax.models.clip import CLIP, encode_image_train, encode_text
from cleanclip_jax.objectives.contrastive import TERMS, Embeddings, normalise_rows
from cleanclip_jax.sharding import copied_over
from cleanclip_jax.training.optimizer import MAX_LOGIT_SCALE

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


def fresh_state(variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> State:
    """A state at step 0 with fresh optimizer moments (fidelity row 5)."""
    params = variables["params"]
    step = jnp.zeros((), jnp.int32)
    return State(step, params, variables.get("batch_stats", {}), optimizer.init(params))


def objective(
    model: CLIP,
    weights: Mapping[str, float],
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: Float[Array, "b views s s 3"],
    tokens: Int[Array, "b views n"],
    *,
    separate_views: bool = False,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Any]]]:
    """The weighted sum of the terms over the global batch.

    Args:
      weights: by term name; a term of weight 0 is left out.
      images, tokens: pairs and, where `views` is 2, their augmented views beside them.
      separate_views: a forward for each view instead of a joint one, so that batch norm sees
        originals and views apart (fidelity row 13).
      mesh: where the batch is sharded over `data`.

    Returns:
      the loss, and beside it the terms and the new batch statistics.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    b, views = images.shape[:2]
    flat_tokens = tokens.reshape(b * views, -1)
    text = encode_text(model, variables, flat_tokens).reshape(b, views, -1)
    if separate_views:
        features = []
        for view in range(views):
            one, batch_stats = encode_image_train(model, variables, images[:, view])
            variables = {"params": params, "batch_stats": batch_stats}
            features.append(one)
        image = jnp.stack(features, 1)
    else:
        joint = images.reshape(b * views, *images.shape[2:])
        image, batch_stats = encode_image_train(model, variables, joint)
        image = image.reshape(b, views, -1)

    own = jnp.concatenate([normalise_rows(image), normalise_rows(text)], 1)  # [b, 2 views, d]
    # One gather of all embeddings, here and nowhere else: each device keeps its own rows as
    # queries and sees everyone's as keys, with exact gradients through it (fidelity row 14).
    everyone = own
    if mesh is not None:
        everyone = jax.lax.with_sharding_constraint(own, copied_over(mesh))
    order = (0, 1) if views == 1 else (0, 2, 1, 3)
    scale = jnp.exp(params["logit_scale"])
    metrics = {
        name: TERMS[name](
            Embeddings(*(own[:, i] for i in order)),
            Embeddings(*(everyone[:, i] for i in order)),
            scale,
        )
        for name, weight in weights.items()
        if weight
    }
    loss = sum((weights[name] * term for name, term in metrics.items()), jnp.zeros_like(scale))
    return loss, (metrics, batch_stats)


def apply_gradients(
    optimizer: optax.GradientTransformation, state: State, gradients: Any, batch_stats: Any
) -> State:
    """One update of the parameters, and logit_scale clamped to [0, 4.6052]."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    scale = jnp.clip(params["logit_scale"], 0.0, MAX_LOGIT_SCALE)
    return State(state.step + 1, {**params, "logit_scale": scale}, batch_stats, opt_state)


def make_step(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    weights: Mapping[str, float],
    *,
    separate_views: bool = False,
    mesh: Mesh | None = None,
) -> Callable[[State, Mapping[str, jax.Array]], tuple[State, Metrics]]:
    """Returns the jitted step: (state, batch) to (state, metrics). The old state is donated.

    The batch holds `images` uint8[b, views, s, s, 3] and `tokens` int32[b, views, n].
    """

    def step(state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        images = normalise(batch["images"], str(jnp.dtype(model.dtype)))
        compute = partial(objective, model, weights, separate_views=separate_views, mesh=mesh)
        (loss, (terms, batch_stats)), gradients = jax.value_and_grad(compute, has_aux=True)(
            state.params, state.batch_stats, images, batch["tokens"]
        )
        metrics = {
            "loss": loss,
            **terms,
            "logit_scale": state.params["logit_scale"],
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": schedule(state.step),
        }
        return apply_gradients(optimizer, state, gradients, batch_stats), metrics

    # Pinned, so that the state comes back as it went in and nothing compiles twice.
    placed = None if mesh is None else copied_over(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=placed)
