"""A checkpoint in PyTorch beside the same one here: the largest difference of each layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers.torch_reference import Outputs, reference_outputs

from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.start.torch.checkpoint import Checkpoint

TOLERANCE = 1e-4  # largest difference over largest value, float32


@dataclass(frozen=True)
class Difference:
    """One layer's largest difference, absolute and over the largest value of PyTorch's."""

    layer: str
    absolute: float
    relative: float


def compare(
    checkpoint: Checkpoint, model: CLIP, variables: Mapping[str, Any], seed: int = 0, batch: int = 2
) -> list[Difference]:
    """Runs both on the same random pictures and tokens.

    Returns:
      the layers' differences in order, each tower's features last.
    """
    images, tokens = random_input(model, seed, batch)
    theirs = reference_outputs(checkpoint, images, tokens)
    ours = outputs(model, variables, images, tokens)
    differences = []
    for layer in theirs:
        difference = float(np.abs(ours[layer] - theirs[layer]).max())
        differences.append(
            Difference(layer, difference, difference / float(np.abs(theirs[layer]).max()))
        )
    return differences


def first_departure(differences: list[Difference]) -> Difference | None:
    """The first layer whose relative difference is beyond the tolerance, or is no number."""
    return next((d for d in differences if not d.relative <= TOLERANCE), None)


def random_input(model: CLIP, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [b, s, s, 3] of normal noise, and tokens [b, n] that end at different places."""
    v, rng = model.variant, np.random.default_rng(seed)
    side = v.image_size
    images = rng.standard_normal((batch, side, side, 3), np.float32)
    tokens = rng.integers(1, v.vocab_size - 2, (batch, v.context_length))
    tokens[:, 0] = v.vocab_size - 2
    ends = rng.integers(2, v.context_length, batch)
    for row, end in zip(tokens, ends, strict=True):
        row[end], row[end + 1 :] = v.vocab_size - 1, 0
    return images, tokens.astype(np.int32)


def outputs(
    model: CLIP, variables: Mapping[str, Any], images: np.ndarray, tokens: np.ndarray
) -> Outputs:
    """The outputs of our modules by their place in the tree, 'visual/ln_pre'."""
    results: Outputs = {}
    variables = jax.tree.map(jnp.asarray, dict(variables))
    for method, inputs in (
        ("image_features", (jnp.asarray(images), False)),
        ("text_features", (jnp.asarray(tokens),)),
    ):
        _, state = model.apply(
            variables,
            *inputs,
            method=method,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        results |= dict(_calls(state["intermediates"], ""))  # pyright: ignore
    return results


def _calls(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _calls(value, f"{prefix}/{name}" if prefix else name)
        elif name == "__call__":
            yield prefix, np.asarray(value[0])


def table(differences: list[Difference]) -> str:
    """The differences as lines of text."""
    width = max(len(d.layer) for d in differences)
    lines = [f"{'layer':<{width}}  largest difference  relative"]
    lines += [f"{d.layer:<{width}}  {d.absolute:18.2e}  {d.relative:8.1e}" for d in differences]
    return "\n".join(lines)
