"""The golden values' tensors, which bear OpenAI's names, as ours by the package's own rules."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.names import Rule, rules

# By shape as well: visual.conv1.weight is one thing in a ResNet and another in a transformer.
_RULES = {
    (rule.name, rule.shape): rule
    for variant in ("RN-test", "ViT-test")
    for rule in rules("openai", VARIANTS[variant])
}


def rule_of(name: str, values: np.ndarray) -> Rule:
    """The rule of a golden tensor."""
    return _RULES[name, values.shape]


def flat(tensors: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """Their tensors under `prefix` as {our path: values}, without batch norm's counters."""
    out = {}
    for name, values in tensors.items():
        if name.startswith(prefix):
            rule = rule_of(name.removeprefix(prefix), values)
            if not rule.counts:
                out[rule.path] = rule.to_ours(values)
    return out


def variables(golden, kind: str) -> dict:
    """The golden model's variables, 'rn' or 'vit', under our names."""
    tensors = flat(golden(f"{kind}_state_dict"))
    return unflatten_dict({path: jnp.asarray(x) for path, x in tensors.items()}, sep="/")


def relative(ours, theirs) -> float:
    """max|difference| / max|reference|, the measure of tests/golden."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
