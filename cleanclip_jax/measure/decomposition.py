"""A ViT's unit embedding as a sum of parts, and repairs of the parts that a trigger drives.

After "A Closer Look at Backdoor Attacks on CLIP" (ICML 2025). Prototypes are the parts' means over
clean pictures. The original's code chooses the repair by the true attack; here both are measured.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from cleanclip_jax.arrays import read_arrays, write_arrays
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import REQUIRED, number, take, text, whole
from cleanclip_jax.measure.encoder import Encoder, fill_up
from cleanclip_jax.models.clip import CLIP, residual_parts
from cleanclip_jax.sharding import place_batch
from cleanclip_jax.views.normalise import normalise
from cleanclip_jax.workdir import workdir_path

# heads: for patches; mlps: for what is spread over the picture.
REPAIRS = ("heads", "mlps")
REPAIR_KEYS = {
    "prototypes": text(REQUIRED, "a file of cleanclip decompose"),
    "threshold": number(0.002, "of a head's product with its prototype: the published code's"),
    "mlps": whole(5, "MLPs, from the last, that are replaced by their prototypes", 1),
}


class Parts(NamedTuple):
    """What a unit embedding is the sum of.

    Attributes:
      first: the class token as it comes into the first layer.
      mlps: of each layer.
      heads: of each layer's attention.
      length: of the un-normalised features.
    """

    first: Float[Array, "b d"]
    mlps: Float[Array, "l b d"]
    heads: Float[Array, "l h b d"]
    length: Float[Array, " b"]

    def sum(self) -> Float[Array, "b d"]:
        """The unit embedding."""
        return self.first + self.mlps.sum(0) + self.heads.sum((0, 1))


def check_decomposable(model: CLIP) -> None:
    """Refuses what has no parts."""
    if isinstance(model.variant.vision_layers, tuple):
        raise UserError("a ResNet's embedding is no sum of heads and MLPs: a ViT's alone is")
    if model.variant.vision_pool != "token":
        raise UserError("the embedding is a mean over all tokens: a class token's alone has parts")


def decompose(model: CLIP, variables: Mapping[str, Any], images: Float[Array, "b s s 3"]) -> Parts:
    """The parts of a ViT's unit embeddings of normalised pictures, in float32 or better.

    Each goes through the last norm, with the mean and deviation of the whole, and the projection;
    bias and mean are shared evenly, a layer's attention being one part of its heads.
    """
    check_decomposable(model)
    dtype = jnp.promote_types(model.compute.dtype, jnp.float32)
    tower, v = variables["params"]["visual"], model.variant
    model = model.computed(dtype=str(dtype))
    _, first, mixed, mlps = residual_parts(model, variables, images.astype(dtype))
    layers, b, width = mixed.shape
    heads = v.vision.heads
    blocks = [tower["transformer"][f"blocks_{i}"]["out"] for i in range(layers)]
    kernel = jnp.stack([block["kernel"] for block in blocks]).astype(dtype)
    bias = jnp.stack([block["bias"] for block in blocks]).astype(dtype) / heads
    einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    each = einsum(
        "lbhk,lhkw->lhbw",
        mixed.reshape(layers, b, heads, -1),
        kernel.reshape(layers, heads, -1, width),
    )
    each = each + bias[:, None, None]
    whole = first + mlps.sum(0) + each.sum((0, 1))
    mean = whole.mean(-1, keepdims=True)
    deviation = jnp.sqrt(whole.var(-1, keepdims=True) + v.vision_epsilon)
    norm = {name: x.astype(dtype) for name, x in tower["ln_post"]["norm"].items()}
    projection, count = tower["projection"].astype(dtype), 2 * layers + 1

    def through(x: jax.Array, share: int) -> jax.Array:
        lead = (None,) * (x.ndim - 1)
        centred = (x - (mean / share)[(None,) * (x.ndim - 2)]) / deviation[(None,) * (x.ndim - 2)]
        normed = norm["scale"][lead] * centred + (norm["bias"] / share)[lead]
        return einsum("...w,wd->...d", normed, projection)

    parts = Parts(
        through(first, count), through(mlps, count), through(each, count * heads), jnp.zeros(b)
    )
    length = jnp.linalg.norm(parts.sum(), axis=-1)
    divided = jax.tree.map(
        lambda x: x / length[(None,) * (x.ndim - 2)][..., None], parts._replace(length=parts.first)
    )
    return divided._replace(length=length)


@dataclass(frozen=True)
class Prototypes:
    """Means of parts over clean pictures.

    Attributes:
      heads: of the last layer's.
      mlps: of each layer.
      model: the digest of the encoder that they are of.
      pictures: how many.
    """

    heads: Float32[np.ndarray, "h d"]
    mlps: Float32[np.ndarray, "l d"]
    model: str
    pictures: int

    @classmethod
    def of(
        cls, encoder: Encoder, pictures: UInt8[np.ndarray, "n s s 3"], batch_size: int
    ) -> "Prototypes":
        """Computes them of clean pictures."""
        size, sums = encoder.rows(batch_size), []
        for start in range(0, len(pictures), size):
            images = pictures[start : start + size]
            weights = fill_up(np.ones(len(images), np.float32), size)
            rows = {"images": fill_up(images, size), "weights": weights}
            placed = place_batch(encoder.mesh, rows)
            sums.append(jax.device_get(_sums(encoder.model, encoder.variables, **placed)))
        heads, mlps = (
            (np.stack(parts).sum(0, np.float64) / len(pictures)).astype(np.float32)
            for parts in zip(*sums, strict=True)
        )
        return cls(heads, mlps, encoder.digest, len(pictures))

    def save(self, path: Path) -> None:
        """Writes them as an .npz."""
        write_arrays(path, {name: np.asarray(value) for name, value in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> "Prototypes":
        """Reads what `save` wrote."""
        arrays = read_arrays(path)
        kinds = {"heads": (2, "f"), "mlps": (2, "f"), "model": (0, "U"), "pictures": (0, "i")}
        fits = arrays.keys() == kinds.keys() and all(
            (arrays[name].ndim, arrays[name].dtype.kind) == kind for name, kind in kinds.items()
        )
        if not fits or arrays["heads"].shape[1] != arrays["mlps"].shape[1]:
            raise UserError(f"{path} is no file of cleanclip decompose")
        heads, mlps = (arrays[name].astype(np.float32) for name in ("heads", "mlps"))
        return cls(heads, mlps, str(arrays["model"]), int(arrays["pictures"]))


@partial(jax.jit, static_argnums=0)
def _sums(
    model: CLIP,
    variables: Mapping[str, Any],
    images: UInt8[Array, "b s s 3"],
    weights: Float[Array, " b"],
) -> tuple[Float[Array, "h d"], Float[Array, "l d"]]:
    parts = decompose(model, variables, normalise(images))
    heads, mlps = (jnp.einsum("kbd,b->kd", x, weights) for x in (parts.heads[-1], parts.mlps))
    return heads, mlps


@dataclass(frozen=True)
class Repair:
    """A `config.evaluation.repair`, opened."""

    path: Path
    prototypes: Prototypes
    threshold: float
    mlps: int

    def encoders(self, encoder: Encoder) -> Iterator[tuple[str, "RepairedEncoder"]]:
        """The encoder with each of `REPAIRS`; refuses prototypes that are not its."""
        check_decomposable(encoder.model)
        if self.prototypes.model != encoder.digest:
            raise UserError(
                f"config.evaluation.repair: {self.path} is of another model: make prototypes of "
                "this one with cleanclip decompose"
            )
        given = (encoder.model, encoder.variables, encoder.tokenizer, encoder.mesh)
        return ((how, RepairedEncoder(*given, self, how)) for how in REPAIRS)


def open_repair(given: Mapping[str, Any]) -> Repair:
    """Opens a `config.evaluation.repair`."""
    options = take("config.evaluation.repair", given, REPAIR_KEYS)
    path = workdir_path(options["prototypes"])
    return Repair(path, Prototypes.load(path), options["threshold"], options["mlps"])


@dataclass(frozen=True, eq=False)
class RepairedEncoder(Encoder):
    """A ViT whose embeddings are repaired as pictures are encoded.

    heads: of the last layer's heads, those whose part has a product with its prototype of at most
    the threshold are replaced by it. mlps: the last MLPs' parts are replaced by theirs.
    """

    repair: Repair
    how: str

    @cached_property
    def digest(self) -> str:
        """Of all that decides its features."""
        r = self.repair
        whole = hashlib.sha256(f"{self.how} {r.threshold} {r.mlps} {r.prototypes.model}".encode())
        for rows in (r.prototypes.heads, r.prototypes.mlps):
            whole.update(rows.tobytes())
        return whole.hexdigest()

    def image_features(
        self, images: UInt8[np.ndarray, "b s s 3"], batch_size: int
    ) -> Float32[np.ndarray, "b d"]:
        """Un-normalised features: the repaired sum, as long as the features were."""
        count, r = len(images), self.repair
        full = fill_up(images, self.rows(batch_size))
        placed = place_batch(self.mesh, {"images": full})["images"]
        prototypes = (r.prototypes.heads, r.prototypes.mlps)
        options = (self.how, min(r.mlps, len(r.prototypes.mlps)))
        features = _repaired(
            self.model, options, self.variables, placed, prototypes, np.float32(r.threshold)
        )
        return np.asarray(features)[:count].astype(np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _repaired(
    model: CLIP,
    options: tuple[str, int],
    variables: Mapping[str, Any],
    images: UInt8[Array, "b s s 3"],
    prototypes: tuple[jax.Array, jax.Array],
    threshold: jax.Array,
) -> Float[Array, "b d"]:
    how, count = options
    parts = decompose(model, variables, normalise(images))
    if how == "heads":
        parts = parts._replace(
            heads=parts.heads.at[-1].set(repair_heads(parts.heads[-1], prototypes[0], threshold))
        )
    else:
        means = jnp.broadcast_to(prototypes[1][-count:, None], parts.mlps[-count:].shape)
        parts = parts._replace(mlps=parts.mlps.at[-count:].set(means))
    return parts.sum() * parts.length[:, None]


def repair_heads(
    heads: Float[Array, "h b d"], prototypes: Float[Array, "h d"], threshold: Any
) -> Float[Array, "h b d"]:
    """Heads' parts, each replaced by its prototype where their product is at most the threshold."""
    means = prototypes.astype(heads.dtype)[:, None]
    driven = (heads * means).sum(-1, keepdims=True) <= threshold
    return jnp.where(driven, means, heads)
