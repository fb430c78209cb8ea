"""BadCLIP's optimised patch (arXiv 2311.12075): its terms, and one step of its optimisation.

A frozen CLIP in evaluation mode sees pictures with the patch in one place. The text term brings
them to captions that name the target, the visual term to the target's pictures and away from clean
ones. What stands here departs from the released code where docs/attacks.md says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from cleanclip_jax.losses.compare import gathered, normalise_rows
from cleanclip_jax.models.clip import CLIP, encode_image
from cleanclip_jax.sharding import copied_over
from cleanclip_jax.views.device_autoaugment import augment
from cleanclip_jax.views.normalise import standardise

Patch = Float32[Array, "l l 3"]
# Margin and weight of each visual term, where a config gives none.
MARGINS = {"euclid": (1.0, 500.0), "cosine": (0.1, 10.0)}


@dataclass(frozen=True)
class PatchLoss:
    """What a patch is optimised for.

    Attributes:
      text_loss: 'contrastive', as the original: each picture to its caption among the batch's; it
        does not prefer the target, since one number added to all logits leaves it as it is.
        'classes': cross-entropy of the target among the prompts of all classes.
      visual_loss: 'euclid' or 'cosine', the distance of the triplets.
      margin, weight: of the visual term; weight 0 leaves it out.
      negatives: 'clean' pictures, or 'triggered' ones, as the released code's paste makes them.
      place: the patch's top left corner, (row, column).
      view: how probably AutoAugment changes a picture, before the patch goes on.
      view_per: 'picture', or 'batch': one coin for all, as the original's.
    """

    text_loss: str
    visual_loss: str
    margin: float
    weight: float
    negatives: str
    place: tuple[int, int]
    view: float = 0.0
    view_per: str = "picture"


class PatchBatch(NamedTuple):
    """What one step sees; `texts` and `positives` are unit embeddings.

    Attributes:
      texts: of each picture's caption, which names the target; of the text term 'classes' of every
        class's prompts [c, d] in their place.
      positives: of pictures of the target.
      negatives: which picture of the batch is each one's negative.
      target: the class's index, for the text term 'classes'.
    """

    images: UInt8[Array, "b s s 3"]
    texts: Float[Array, "b d"] | Float[Array, "c d"]
    positives: Float[Array, "b d"]
    negatives: Int32[Array, " b"]
    target: int | Int[Array, ""] = 0


class PatchState(NamedTuple):
    """The patch, HWC and not clipped, and Adam's state."""

    step: Int32[Array, ""]
    patch: Patch
    opt_state: Any


def clipped(patch: Patch) -> Patch:
    """The patch within [0, 1]; its gradient is 1 inside, ends included, as torch's clamp has it.

    About 5 % of a fresh patch lies on an end, where `jnp.clip` gives a half.
    """
    inside = (patch >= 0) & (patch <= 1)
    return jnp.where(inside, patch, jax.lax.stop_gradient(jnp.clip(patch, 0, 1)))


def text_term(
    loss: PatchLoss, units: jax.Array, batch: PatchBatch, scale: jax.Array, mesh: Mesh | None
) -> Float[Array, ""]:
    """Of triggered pictures' unit embeddings [b, d]."""
    if loss.text_loss == "contrastive":
        compare = gathered({"image": units, "text": batch.texts}, scale, mesh)
        return (compare("image", "text") + compare("text", "image")) / 2
    highest = jax.lax.Precision.HIGHEST
    logits = scale * jnp.matmul(units, batch.texts.T, precision=highest)
    return (jax.nn.logsumexp(logits, axis=-1) - logits[:, batch.target]).mean()


def visual_term(
    loss: PatchLoss, units: jax.Array, positives: jax.Array, negatives: jax.Array
) -> Float[Array, ""]:
    """Triplets of triggered pictures, positives and negatives, each [b, d]; not weighted."""
    if loss.visual_loss == "euclid":

        def apart(other: jax.Array) -> jax.Array:
            return jnp.linalg.norm(units - other + 1e-6, axis=-1)  # as torch's triplet loss

        difference = apart(positives) - apart(negatives)
    else:
        difference = (units * negatives).sum(-1) - (units * positives).sum(-1)
    return jax.nn.relu(difference + loss.margin).mean()


def embed(
    model: CLIP,
    variables: Mapping[str, Any],
    images: UInt8[Array, "b s s 3"],
    place: tuple[int, int] = (0, 0),
    patch: Patch | None = None,
) -> Float[Array, "b d"]:
    """Unit embeddings of pictures, with the patch at its place or as they are."""
    pictures = images.astype(jnp.float32) / 255
    if patch is not None:
        (row, column), side = place, len(patch)
        square = jnp.broadcast_to(clipped(patch)[None], (len(images), *patch.shape))
        pictures = pictures.at[:, row : row + side, column : column + side].set(square)
    normalised = standardise(pictures, str(jnp.dtype(model.compute.dtype)))
    return normalise_rows(encode_image(model, variables, normalised))


def patch_terms(
    loss: PatchLoss,
    units: Float[Array, "b d"],
    clean: Float[Array, "b d"] | None,
    batch: PatchBatch,
    scale: Float[Array, ""],
    mesh: Mesh | None = None,
) -> dict[str, Float[Array, ""]]:
    """The terms by name, text and visual, weighted: their sum is minimised.

    Args:
      units: unit embeddings of the pictures with the patch.
      clean: of the pictures without, where `loss` has them as negatives.
    """
    terms = {"text": text_term(loss, units, batch, scale, mesh)}
    if loss.weight:
        negatives = jax.lax.stop_gradient(units if clean is None else clean)
        if mesh is not None:  # a picture's negative may be another device's
            negatives = jax.lax.with_sharding_constraint(negatives, copied_over(mesh))
        triplets = visual_term(loss, units, batch.positives, negatives[batch.negatives])
        terms["visual"] = loss.weight * triplets
    return terms


def viewed(
    images: UInt8[Array, "b s s 3"], loss: PatchLoss, key: jax.Array
) -> UInt8[Array, "b s s 3"]:
    """Pictures, some of them augmented, drawn from the key."""
    coin, draw = jax.random.split(key)
    shape = (len(images) if loss.view_per == "picture" else 1, 1, 1, 1)
    chosen = jax.random.uniform(coin, shape, jnp.float32) < loss.view
    return jnp.where(chosen, augment(images, jax.random.split(draw, len(images))), images)


def make_patch_step(
    model: CLIP,
    loss: PatchLoss,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[PatchState, dict[str, Float[Array, ""]]]]:
    """Returns the jitted step: (state, variables, batch) to (state, terms before the update).

    Args:
      seed: draws the views, with the step's number.
    """

    @jax.jit
    def step(
        state: PatchState, variables: Mapping[str, Any], batch: PatchBatch
    ) -> tuple[PatchState, dict[str, jax.Array]]:
        images, clean = batch.images, None
        if loss.view:
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            images = viewed(images, loss, key)
        if loss.weight and loss.negatives == "clean":
            clean = embed(model, variables, images)
        scale = jnp.exp(variables["params"]["logit_scale"])

        def compute(patch: Patch) -> tuple[jax.Array, dict[str, jax.Array]]:
            units = embed(model, variables, images, loss.place, patch)
            terms = patch_terms(loss, units, clean, batch, scale, mesh)
            return sum(terms.values(), jnp.zeros(())), terms

        gradient, terms = jax.grad(compute, has_aux=True)(state.patch)
        update, opt_state = optimizer.update(gradient, state.opt_state)
        patch: Any = optax.apply_updates(state.patch, update)
        return PatchState(state.step + 1, patch, opt_state), terms

    return step
