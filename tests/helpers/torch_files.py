"""PyTorch checkpoints of small and random models, for whatever reads or writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.names import rules

KINDS = {"rn": "RN-test", "vit": "ViT-test"}


def by_path(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a tree by path, 'params/text/positions'."""
    return dict(flatten_dict(dict(tree), sep="/"))


def tensors_of(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as tensors of torch, in their order."""
    import torch

    return {name: torch.from_numpy(np.array(x)) for name, x in values.items()}


def cleanclip_file(golden, kind: str, path: Path) -> dict[str, Any]:
    """Writes a golden model as the original does; returns what is in the file."""
    import torch

    state = {f"module.{name}": x for name, x in tensors_of(golden(f"{kind}_state_dict")).items()}
    content = {"epoch": 3, "name": "tiny", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, path)
    return content


def random_values(layout: str, v: Variant, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors of a variant in a layout, counters at 7."""
    rng = np.random.default_rng(seed)
    return {
        rule.name: np.asarray(
            7 if rule.counts else np.abs(rng.standard_normal(rule.shape, np.float32)) / 8
        )
        for rule in rules(layout, v)
    }


def same_tensors(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Asserts that two state dicts are one in name, order, type, shape and every bit."""
    import torch

    assert list(ours) == list(theirs)
    for name, wanted in theirs.items():
        found = ours[name]
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[wanted.element_size()]
        assert torch.equal(found.view(kind), wanted.view(kind)), name
