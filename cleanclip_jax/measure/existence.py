"""The backdoor existence coefficient: how much a model still computes as the poisoned one does.

After arXiv 2405.16134, whose code compares the outputs of a network's layers. It then scales the
figures of the defences at hand between their least and largest, so that a new defence moves all of
them. The coefficient here has fixed ends instead, and is ours: 1 is as the poisoned model, 0 as a
never poisoned one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, UInt8

from cleanclip_jax.measure.encoder import Encoder, fill_up
from cleanclip_jax.models.clip import CLIP, encode_image_layers
from cleanclip_jax.sharding import place_batch
from cleanclip_jax.views.normalise import normalise

SHARE = 0.1  # of a layer's channels, those that the trigger changes most
BATCH = 64
ALIKE = 1e-6  # a layer whose clean similarity is as near to 1 tells nothing

Maps = Float[np.ndarray, "n c p"]  # a layer's outputs: pictures, channels, places


class Existence(NamedTuple):
    """The coefficient and what it is made of.

    Attributes:
      value: the mean over the layers that tell the two apart; None where none does.
      layers: of each layer the coefficient, None where it tells nothing.
      similarity, floor: of each layer the linear CKA of the poisoned model with the model, and with
        the never poisoned one.
    """

    value: float | None
    layers: Mapping[str, float | None]
    similarity: Mapping[str, float]
    floor: Mapping[str, float]


def changes(clean: Maps, triggered: Maps) -> Float64[np.ndarray, " c"]:
    """How far a trigger moves each channel (TAC): the mean distance of its maps without and with
    it, over the mean norm of a picture's whole output, of clean and triggered ones together."""
    moved, whole = _moved(clean, triggered)
    return 2 * moved / whole  # of as many clean as triggered outputs


def _moved(clean: Maps, triggered: Maps) -> tuple[Float64[np.ndarray, " c"], float]:
    """The sums over pictures of each channel's distances, and of the norms of all outputs."""
    a, b = (np.asarray(maps, np.float64) for maps in (clean, triggered))
    norms = sum(float(np.sqrt((maps**2).sum((1, 2))).sum()) for maps in (a, b))
    return np.sqrt(((a - b) ** 2).sum(2)).sum(0), norms


def most_moved(change: Float64[np.ndarray, " c"]) -> Int[np.ndarray, " k"]:
    """The tenth of the channels that changes most, one at least, the first of them first."""
    count = max(1, int(SHARE * len(change)))
    return np.argsort(-change, kind="stable")[:count]


def linear_cka(x: Float[np.ndarray, "n *a"], y: Float[np.ndarray, "n *b"]) -> float:
    """Linear CKA of two models' features of the same pictures (arXiv 1905.00414); 1 is alike."""
    return _alike(_gram(x), _gram(y))


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-300))


def _gram(x: Float[np.ndarray, "n *a"]) -> Float64[np.ndarray, "n n"]:
    """Products of the centred rows: ‖YᵀX‖² is the sum of two such tables' products."""
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    rows = rows - rows.mean(0)
    return rows @ rows.T


def coefficient(similarity: Mapping[str, float], floor: Mapping[str, float]) -> Existence:
    """(S - S_floor) / (1 - S_floor) of each layer, and the mean over the layers."""
    layers = {
        name: (value - floor[name]) / (1 - floor[name]) if 1 - floor[name] > ALIKE else None
        for name, value in similarity.items()
    }
    known = [value for value in layers.values() if value is not None]
    return Existence(float(np.mean(known)) if known else None, layers, similarity, floor)


def existence(
    poisoned: Encoder,
    others: Mapping[str, Encoder],
    floor: Encoder,
    clean: UInt8[np.ndarray, "n s s 3"],
    triggered: UInt8[np.ndarray, "n s s 3"],
) -> dict[str, Existence]:
    """The coefficient of each other model, on the outputs of the image tower's residual blocks.

    Those are a ResNet's four stages and a ViT's blocks, whose places are the tokens.

    Args:
      floor: a never poisoned model of the same architecture.
      clean, triggered: the same pictures without and with the trigger.
    """
    pairs = zip(_batches(poisoned, clean), _batches(poisoned, triggered), strict=True)
    sums: dict[str, list[Any]] = {}
    for before, after in pairs:
        for name in before:
            moved, whole = _moved(before[name], after[name])
            known = sums.setdefault(name, [0.0, 0.0])
            known[0], known[1] = known[0] + moved, known[1] + whole
    chosen = {name: most_moved(2 * moved / whole) for name, (moved, whole) in sums.items()}
    grams = {
        name: _grams(encoder, triggered, chosen)
        for name, encoder in {"": poisoned, "floor": floor}.items()
    }
    below = {name: _alike(grams[""][name], grams["floor"][name]) for name in chosen}
    result = {}
    for name, encoder in others.items():
        of = _grams(encoder, triggered, chosen)
        result[name] = coefficient({k: _alike(grams[""][k], of[k]) for k in chosen}, below)
    return result


def _grams(
    encoder: Encoder, pictures: UInt8[np.ndarray, "n s s 3"], chosen: Mapping[str, np.ndarray]
) -> dict[str, Float64[np.ndarray, "n n"]]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    for batch in _batches(encoder, pictures):
        for name, channels in chosen.items():
            parts[name].append(batch[name][:, channels])
    return {name: _gram(np.concatenate(several)) for name, several in parts.items()}


def _batches(encoder: Encoder, pictures: UInt8[np.ndarray, "n s s 3"]) -> Any:
    """Yields each layer's maps [b, channels, places] by its name, a batch at a time."""
    size = encoder.rows(BATCH)
    for start in range(0, len(pictures), size):
        some = pictures[start : start + size]
        placed = place_batch(encoder.mesh, {"images": fill_up(some, size)})["images"]
        layers = _layers(encoder.model, encoder.variables, placed)
        yield {
            name: np.moveaxis(np.asarray(x)[: len(some)].astype(np.float32), -1, 1).reshape(
                len(some), x.shape[-1], -1
            )
            for name, x in layers.items()
        }


@partial(jax.jit, static_argnums=0)
def _layers(
    model: CLIP, variables: Mapping[str, Any], images: UInt8[Array, "b s s 3"]
) -> dict[str, Array]:
    pictures = normalise(images, str(jnp.dtype(model.compute.dtype)))
    return encode_image_layers(model, variables, pictures)[1]
