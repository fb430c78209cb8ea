"""The model that is measured, on the devices of this process, and the features of its towers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, UInt8
from ml_collections import ConfigDict

from cleanclip_jax.models.clip import CLIP, encode_image, encode_text
from cleanclip_jax.sharding import copied_over, place_batch
from cleanclip_jax.start.start import Start, load_start
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.normalise import normalise

# Captions encoded at once: long enough to fill a device, short beside the pictures' memory.
TEXT_BATCH = 256


@dataclass(frozen=True, eq=False)
class Encoder:
    """A model with its tokenizer; `variables` lie on every device of `mesh`.

    With several processes, the mesh is of this one's devices alone: each works on its share of the
    pictures without waiting for the others.
    """

    model: CLIP
    variables: Mapping[str, Any]
    tokenizer: Tokenizer
    mesh: Mesh

    @cached_property
    def digest(self) -> str:
        """A sha256 over all that decides image features: weights, architecture, precision."""
        return self._digest_of("visual")

    @cached_property
    def text_digest(self) -> str:
        """The same of text features, for which the tokenizer counts, too."""
        return self._digest_of("text", self.tokenizer.as_json())

    def _digest_of(self, name: str, more: str = "") -> str:
        m, backend = self.model, jax.default_backend()
        architecture = (m.variant, m.compute.activation, str(m.compute.dtype), backend)
        whole = hashlib.sha256((repr(architecture) + more).encode())
        tower = {part: tree[name] for part, tree in self.variables.items() if name in tree}
        return hash_arrays(whole, tower).hexdigest()

    def image_features(
        self, images: UInt8[np.ndarray, "b s s 3"], batch_size: int
    ) -> Float32[np.ndarray, "b d"]:
        """Un-normalised image features; fewer pictures than `batch_size` are filled up to it."""
        count = len(images)
        full = fill_up(images, self.rows(batch_size))
        placed = place_batch(self.mesh, {"images": full})["images"]
        features = _image_features(self.model, self.variables, placed)
        return np.asarray(features)[:count].astype(np.float32)

    def text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "b d"]:
        """Un-normalised text features, in batches over the devices."""
        size, rows = self.rows(TEXT_BATCH), []
        for start in range(0, len(texts), size):
            tokens = self.tokenizer(list(texts[start : start + size]))
            placed = place_batch(self.mesh, {"tokens": fill_up(tokens, size)})["tokens"]
            features = _text_features(self.model, self.variables, placed)
            rows.append(np.asarray(features)[: len(tokens)].astype(np.float32))
        return np.concatenate(rows)

    def rows(self, count: int) -> int:
        """`count`, or the next number of rows that the devices share evenly."""
        devices = self.mesh.devices.size
        return -(-count // devices) * devices


def encoder_of(
    model: CLIP, variables: Mapping[str, Any], tokenizer: Tokenizer, mesh: Mesh
) -> Encoder:
    """The model on this process's part of `mesh`."""
    if jax.process_count() > 1:
        variables = jax.tree.map(lambda x: x.addressable_data(0), variables)
        mesh = mesh.local_mesh
    return Encoder(model, jax.device_put(dict(variables), copied_over(mesh)), tokenizer, mesh)


def encoder_from(
    start: Start, mesh: Mesh, config: ConfigDict | None = None, step: int | None = None
) -> Encoder:
    """A start's model as `load_start` loads it, on this process's part of `mesh`."""
    run = load_start(start, mesh, config, step)
    return encoder_of(run.model, run.variables, run.tokenizer, mesh)


def hash_arrays(whole: Any, tree: Any) -> Any:
    """Feeds a hash with every array of a tree; returns it."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        whole.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())  # bfloat16 is no buffer that hashlib takes
    return whole


def fill_up(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows with zeros after them, so that a last, smaller batch compiles nothing again."""
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


@partial(jax.jit, static_argnums=0)
def _image_features(
    model: CLIP, variables: Mapping[str, Any], images: UInt8[Array, "b s s 3"]
) -> Float[Array, "b d"]:
    return encode_image(model, variables, normalise(images, str(jnp.dtype(model.compute.dtype))))


@partial(jax.jit, static_argnums=0)
def _text_features(
    model: CLIP, variables: Mapping[str, Any], tokens: Int[Array, "b n"]
) -> Float[Array, "b d"]:
    return encode_text(model, variables, tokens)
